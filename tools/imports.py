"""Prove the order of the house: a module imports only modules with lower numbers, also inside functions.

Each notebook has a number and names its module (`#| default_exp`); imports are read from the syntax tree, so one that
is hidden in a function counts as well. With an order there can be no circle. Prints what breaks it and exits with 1."""
import ast, json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def rooms():
    "Module -> (number, notebook); raises where two notebooks have one number"
    found, numbers = {}, {}
    for path in sorted((root/'nbs').glob('[0-9]*.ipynb')):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        names = [re.match(r'#\|\s*default_exp (\S+)', ''.join(c['source'])) for c in cells]
        number = int(path.name[:2])
        if number in numbers: sys.exit(f'{path.name} and {numbers[number]} have the same number')
        numbers[number] = path.name
        for name in filter(None, names): found[f'tweetnb.{name[1]}'] = number, path.name
    return found


def imported(node, module):
    "Full names of the modules that an import statement may mean"
    if isinstance(node, ast.Import): return [a.name for a in node.names]
    above = module.split('.')[:-node.level] if node.level else []
    base = '.'.join([*above, *([node.module] if node.module else [])])
    return [base, *(f'{base}.{a.name}' for a in node.names)]


def arrows():
    "(module, what it imports) -> line, for all modules of the house"
    known, found = rooms(), {}
    for module in known:
        path = root.joinpath(*module.split('.')).with_suffix('.py')
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if not isinstance(node, (ast.Import, ast.ImportFrom)): continue
            for name in imported(node, module):
                if name in known and name != module: found[module, name] = node.lineno
    return found


def main():
    known, found, bad = rooms(), arrows(), []
    for (module, name), line in found.items():
        (number, notebook), (other, its) = known[module], known[name]
        if other >= number: bad.append(f'{notebook}: line {line} of {module} imports {name}, which is {its}')
    if bad: sys.exit('\n'.join(['A module may import only modules with lower numbers:', *bad]))
    print(f'{len(known)} modules, {len(found)} imports, each of a lower number; no circle.')


if __name__ == '__main__': main()
