"""Prove what a reader sees first: no line of a notebook or module is longer than 120 columns.

Prose, code and generated modules count; outputs, tables, links and nbdev's own `__all__` do not. With `--fix`,
paragraphs of prose are wrapped again."""
import json, re, sys, textwrap
from pathlib import Path

root = Path(__file__).resolve().parent.parent
width = 120


def is_free(line):
    "Lines that nobody can wrap: tables, links, headings' anchors"
    return line.lstrip().startswith(('|', '!', '<', '> ')) or 'http' in line or line.startswith('    ')


def wrapped(source):
    "Markdown whose paragraphs fit"
    blocks = re.split(r'(\n\s*\n)', source)
    fenced = False
    for i, block in enumerate(blocks):
        inside = fenced
        if block.count('```') % 2: fenced = not fenced
        if inside or '```' in block or all(len(o) <= width for o in block.split('\n')): continue
        lines = block.split('\n')
        if any(is_free(o) or re.match(r'\s*([-*#]|\d+\.) ', o) for o in lines): continue
        blocks[i] = textwrap.fill(' '.join(lines), width, break_long_words=False, break_on_hyphens=False)
    return ''.join(blocks)


def notebook_lines(path, fix):
    nb = json.loads(path.read_text(encoding='utf-8'))
    changed = False
    for n, cell in enumerate(nb['cells']):
        source = ''.join(cell['source'])
        if fix and cell['cell_type'] == 'markdown' and (new := wrapped(source)) != source:
            cell['source'], source, changed = new.splitlines(keepends=True), new, True
        for line in source.split('\n'):
            if cell['cell_type'] == 'code' or not is_free(line): yield f'{path.relative_to(root)}, cell {n}', line
    if changed: path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')


def module_lines(path):
    text = path.read_text(encoding='utf-8')
    text = re.sub(r'^__all__ = \[.*?\]', '', text, flags=re.M | re.S)
    for n, line in enumerate(text.split('\n'), 1): yield f'{path.relative_to(root)}, line {n}', line


def main():
    fix, bad = '--fix' in sys.argv, []
    for path in sorted((root/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in path.parts: continue
        bad += [(where, line) for where, line in notebook_lines(path, fix) if len(line) > width]
    for path in sorted([*(root/'tweetnb').rglob('*.py'), *(root/'tests').rglob('*.py'), *(root/'tools').glob('*.py')]):
        if path.name == '_modidx.py': continue
        bad += [(where, line) for where, line in module_lines(path) if len(line) > width]
    for where, line in bad: print(f'{where}: {len(line)} columns: {line.strip()[:100]}')
    if bad: sys.exit(f'{len(bad)} lines are longer than {width} columns.')
    print(f'No line is longer than {width} columns.')


if __name__ == '__main__': main()
