"""Build the documentation site from the notebooks, without a network and without running them: `_docs/index.html`.

Exported cells become signature, docstring and a table of parameters, with their source folded away; hidden cells are
left out; all other cells keep the outputs they were committed with. The gallery is made of the plots in the notebooks,
the picture of the house of the imports in the modules. Sphinx, MyST-NB and Furo do the rest. Broken links fail the
build."""
import ast, base64, configparser, importlib, re, shutil, sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from fastcore.docments import docments
from nbformat.v4 import new_markdown_cell
from sphinx.cmd.build import build_main

import imports

root = Path(__file__).resolve().parent.parent
src, out = root/'_proc'/'site'/'src', root/'_docs'
cfg = configparser.ConfigParser(delimiters=['='])
cfg.read(root/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
names = []      # (name, target, first line, module) of everything public, for the index
pictures = []   # (heading, page, anchor, file) of every plot, for the gallery
front = {**importlib.import_module(cfg['lib_name'])._names, **importlib.import_module(cfg['lib_name'])._more}
chapters = {'Ground and data': (0, 9), 'Text': (10, 17), 'Models': (18, 29), 'Shipping': (30, 34), 'Training': (35, 50),
            'Evaluation': (51, 55), 'The ways in': (56, 99)}      # by the numbers of their notebooks


def directives(source): return re.findall(r'^\s*#\s*\|\s*(.+)$', source, re.M)
def code(source): return re.sub(r'^\s*#\s*\|.*\n?', '', source, flags=re.M).strip()
def cell_text(x): return re.sub(r'\s+', ' ', str(x)).replace('|', '\\|')
def a_type(x): return '' if x is None or 'empty' in repr(x) else f'`{cell_text(getattr(x, "__name__", x))}`'


def owner(node):
    "The class that a patched function belongs to"
    for d in node.decorator_list:
        f = d.func if isinstance(d, ast.Call) else d
        if getattr(f, 'id', '') == 'patch': return ast.unparse(node.args.args[0].annotation).split('|')
    return [None]


def table(obj):
    "Make a table of parameters from docments"
    try: found = docments(obj, full=True)
    except Exception: return ''
    rows = [(k, v) for k, v in found.items() if k not in ('self', 'cls') and (v.docment or k != 'return')]
    if not rows: return ''
    def row(k, v):
        name = '**returns**' if k == 'return' else f'`{k}`'
        default = '' if 'empty' in repr(v.default) else f'`{cell_text(repr(v.default))}`'
        return f"| {name} | {a_type(v.anno)} | {default} | {cell_text(v.docment or '')} |"
    return '\n'.join(['| | type | default | |', '|---|---|---|---|', *(row(k, v) for k, v in rows)])


def entry(node, module):
    "Document one class or function: signature, docstring and parameters"
    parts, is_class = [], isinstance(node, ast.ClassDef)
    for cls in [None] if is_class else owner(node):
        cls = cls and cls.strip()
        name = f'{cls}.{node.name}' if cls else node.name
        try: obj = getattr(getattr(module, cls), node.name) if cls else getattr(module, node.name)
        except AttributeError: continue
        obj = getattr(obj, 'fget', None) or obj
        doc = (ast.get_docstring(node) or '').strip()
        target = f"{module.__name__}.{name}{'.class'*is_class}"
        target = re.sub(r'[_.]', '-', target.lower())
        names.append((name, target, doc.split('\n')[0], module.__name__))
        of = obj.__init__ if isinstance(obj, type) and '__init__' in vars(obj) else obj
        shown = f'class {name}' if is_class else name
        first = f'```{{index}} ! tn.{name}\n```\n\n' if f'tweetnb.{front.get(name)}' == module.__name__ else ''
        parts.append(f'{first}({target})=\n### `{shown}`\n\n{doc}\n\n{table(of)}\n')
    return parts


def exported(text, module):
    "Document the public names of an exported cell, with its source folded away"
    public = [o for o in ast.parse(text).body if isinstance(o, (ast.FunctionDef, ast.ClassDef)) and o.name[0] != '_']
    parts = [p for o in public for p in entry(o, module)]
    if public or not re.match(r'(import|from) ', text):
        parts.append(f'<details><summary>source</summary>\n\n```python\n{text}\n```\n\n</details>\n')
    return [new_markdown_cell('\n'.join(parts))] if parts else []


def shown(cell, module):
    "Turn a code cell into what the site shows of it: a list of one cell or none"
    found, text = directives(cell.source), code(cell.source)
    kinds = {o.split()[0] for o in found}
    if kinds & {'hide', 'default_exp', 'exporti'}: return []
    if 'export' in kinds: return exported(text, module)
    cell.source = '' if 'echo: false' in found else text
    if not cell.source: cell.metadata['tags'] = ['remove-input']
    return [cell]


def page(path):
    "Write one notebook as a page"
    nb, text = nbformat.read(path, as_version=4), path.read_text(encoding='utf-8')
    found = re.search(r"#\s*\|\s*default_exp ([\w.]+)", text)
    module = importlib.import_module(f"{cfg['lib_name']}.{found[1]}") if found else None
    cells = [o for c in nb.cells for o in (shown(c, module) if c.cell_type == 'code' else [c])]
    nb.cells = [c for c in cells if c.source or c.get('outputs')]
    files = f"{cfg['git_url']}/blob/{cfg['branch']}"
    for c in nb.cells:
        if c.cell_type != 'markdown': continue
        if path.stem == 'index': c.source = re.sub(r'(?<=\]\()nbs/', '', c.source)       # the README's paths
        c.source = re.sub(r'(?<=\]\()([A-Z]+(?:\.md)?)(?=\))', rf'{files}/\1', c.source)
    keep_pictures(nb, path)
    nb.metadata['language_info'] = {'name': 'python'}
    target = src/path.relative_to(root/'nbs')
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, target)


def keep_pictures(nb, path):
    "Write each plot of a notebook to a file, and note below which heading it stands"
    title, page = path.stem, path.relative_to(root/'nbs').with_suffix('')
    anchor, n = '', 0
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            for level, heading in re.findall(r'^(#+) (.+)$', cell.source, re.M):
                if heading.startswith('`'): continue
                plain = re.sub(r'[`*]|\[|\]\([^)]*\)', '', heading).strip()
                title = plain if level == '#' else title
                anchor = '' if level == '#' or len(level) > 3 else plain
        for output in cell.get('outputs', []):
            if 'image/png' not in output.get('data', {}): continue
            name = f"{page.as_posix().replace('/', '-')}-{n}.png"
            n += 1
            (src/'gallery').mkdir(exist_ok=True)
            (src/'gallery'/name).write_bytes(base64.b64decode(output['data']['image/png']))
            pictures.append((title, page.as_posix(), anchor, name))


def gallery():
    "Write the page of all plots, each a link to the notebook that draws it"
    cards = []
    for title, page, heading, name in pictures:
        words = f'{title}: {heading}' if heading and heading != title else title
        cards.append(f'<a class="picture" href="{page}.html"><img src="gallery/{name}" alt="{escape(words)}" '
                     f'loading="lazy"><span>{escape(words)}</span></a>')
    shutil.copytree(src/'gallery', src/'_extra'/'gallery')
    text = ['# Gallery', '', f'Every plot of every notebook, {len(pictures)} of them; a click leads to the cells that '
            'draw it.', '', '```{raw} html', '<div class="gallery">', *cards, '</div>', '```', '']
    (src/'gallery.md').write_text('\n'.join(text), encoding='utf-8')


def floor(module, number):
    "The floor of the house that a module lives on"
    parts = module.split('.')
    if len(parts) == 3: return parts[1]
    return 'ground' if number <= 16 else 'ways in'


def house():
    "Draw the modules on their floors, from the imports"
    known, arrows = imports.rooms(), imports.arrows()
    floors = {}
    for module, (number, notebook) in sorted(known.items(), key=lambda o: o[1]): floors.setdefault(
        floor(module, number), []).append((module, number, notebook))
    def height(name): return sum(number for _, number, _ in floors[name])/len(floors[name])
    order = sorted(floors, key=lambda o: (o != 'ground', o == 'ways in', height(o)))
    used = {m: sorted({a for a, b in arrows if b == m}) for m in known}
    uses = {m: sorted({b for a, b in arrows if a == m}) for m in known}
    wide, tall, gap, left, per = 104, 26, 6, 84, 6
    shapes, y = [], 6
    for name in reversed(order):
        modules = floors[name]
        high = -(-len(modules)//per)*(tall + gap) + gap
        shapes.append(f'<rect class="floor" x="2" y="{y}" width="{left + per*(wide + gap) + 4}" height="{high}"/>')
        shapes.append(f'<text class="name" x="10" y="{y + high/2 + 5}">{name}</text>')
        for i, (module, number, notebook) in enumerate(modules):
            x, top = left + i % per*(wide + gap), y + gap + i//per*(tall + gap)
            last = module.split('.')[-1]
            title = (f'{module}\nimports: {", ".join(uses[module]) or "nothing of ours"}\n'
                     f'imported by: {", ".join(used[module]) or "nobody: a way in"}')
            shade = min(.6, .05 + .04*len(used[module]))
            room = f'<rect class="room" x="{x}" y="{top}" width="{wide}" height="{tall}" fill-opacity="{shade:.2f}"/>'
            words = f'<text x="{x + wide/2}" y="{top + 17}" text-anchor="middle">{number:02} {last}</text>'
            shapes.append(f'<a href="{Path(notebook).stem}.html"><title>{title}</title>{room}{words}</a>')
        y += high + 5
    size = f'0 0 {left + per*(wide + gap) + 8} {y}'
    svg = f'<svg class="house" viewBox="{size}" role="img" aria-label="The house">{"".join(shapes)}</svg>'
    counts = {(a, b): 0 for a in order for b in order}
    for a, b in arrows: counts[floor(a, known[a][0]), floor(b, known[b][0])] += 1
    grid = ['| | ' + ' | '.join(order) + ' |', '|---|' + '--:|'*len(order)]
    for a in reversed(order):
        grid.append(f'| **{a}** imports | ' + ' | '.join(str(counts[a, b] or '') for b in order) + ' |')
    rows = ['| | module | imports | imported by |', '|--:|---|--:|--:|']
    for module, (number, notebook) in sorted(known.items(), key=lambda o: o[1]):
        rows.append(f'| {number:02} | [{module}]({notebook}) | {len(uses[module])} | {len(used[module])} |')
    text = (root/'nbs'/'docs'/'architecture.md').read_text(encoding='utf-8')
    parts = {'HOUSE': f'```{{raw}} html\n{svg}\n```', 'FLOORS': '\n'.join(grid), 'ROOMS': '\n'.join(rows),
             'MODULES': str(len(known)), 'ARROWS': str(len(arrows))}
    for name, value in parts.items(): text = text.replace(f'<!-- {name} -->', value)
    (src/'architecture.md').write_text(text, encoding='utf-8')


def toc(title, files): return f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + '\n'.join(files) + '\n```\n'


def stems(pattern):
    "List the notebooks of a pattern without their suffix"
    nbs = root/'nbs'
    return [str(p.relative_to(nbs).with_suffix('')) for p in sorted(nbs.glob(pattern))]


def index():
    "Add the table of contents to the front page, and write the list of names"
    numbered = stems('[0-9]*.ipynb')
    groups = {'Ten minutes': [f'docs/{o}' for o in ('classroom', 'kaggle', 'engineer', 'cluster')],
              'Look it up': ['docs/howto', 'docs/peers', 'docs/errors', 'docs/glossary', 'gallery'],
              'Walkthroughs': stems('walkthroughs/*.ipynb')}
    for title, (first, last) in chapters.items():
        groups[title] = [o for o in numbered if first <= int(o[:2]) <= last]
    groups |= {'Names': ['api', *(f'api/{o}' for o in api_chapters())], 'Benchmarks': stems('benchmarks/*.ipynb'),
               'The project': ['architecture', 'docs/first_issues']}
    files = [o for group in groups.values() for o in group]
    missing = [o for o in stems('docs/*') if o not in files and o != 'docs/architecture']
    if missing: sys.exit(f'Not in the table of contents: {missing}')
    nb = nbformat.read(src/'index.ipynb', as_version=4)
    nb.cells.append(new_markdown_cell('\n'.join(toc(title, files) for title, files in groups.items() if files)))
    nbformat.write(nb, src/'index.ipynb')
    write_names('api', 'Every public name', names)
    (src/'api').mkdir()
    for name, part in api_chapters().items(): write_names(f'api/{name}', f'Names: {name.replace("_", " ")}', part)


def api_chapters():
    "The public names of each chapter"
    parts = {}
    for o in names:
        chapter = o[3].split('.')[1] if o[3].count('.') == 2 else 'top'
        parts.setdefault(chapter, []).append(o)
    order = ['top', 'data', 'text', 'models', 'ship', 'train', 'evaluate']
    return {o: parts[o] for o in order if o in parts}


def write_names(file, title, rows):
    "Write a table of names, each a link to its entry"
    lines = [f'# {title}', '', '| name | module | what it does |', '|---|---|---|']
    for name, target, doc, module in sorted(rows, key=lambda o: o[0].lower()):
        lines.append(f'| [`{name}`](#{target}) | {module} | {cell_text(doc)} |')
    (src/f'{file}.md').write_text('\n'.join([*lines, '']), encoding='utf-8')


style = """
details summary {cursor: pointer; color: var(--color-foreground-muted); font-size: .85em}
div.cell_output table, table.docutils {font-size: .85em}
div.cell_output img {max-width: 100%; background: white; border-radius: 4px}
table.dataframe {border-collapse: collapse; border: none; margin: .5em 0}
table.dataframe th, table.dataframe td {border: none; padding: .25em .7em}
table.dataframe th, table.dataframe td {border-bottom: 1px solid var(--color-background-border)}
table.dataframe tr, table.dataframe thead {background: transparent !important; color: inherit}
table.dataframe tbody tr:nth-child(odd) {background: transparent !important; color: inherit}
.content {max-width: 52em}
div.highlight pre {white-space: pre-wrap; overflow-wrap: anywhere}
div.cell_output {overflow-x: auto}
.gallery {display: grid; grid-template-columns: repeat(auto-fill, minmax(13em, 1fr)); gap: 1em}
.picture {border: 1px solid var(--color-background-border); border-radius: 6px; padding: .5em; text-decoration: none;
  font-size: .8em; display: flex; flex-direction: column; justify-content: space-between; gap: .4em}
.picture img {width: 100%; height: 10em; object-fit: contain; background: white; border-radius: 4px}
.house {width: 100%; font: 12px var(--font-stack); fill: currentColor}
.house .floor {fill: none; stroke: var(--color-background-border)}
.house .name {font-weight: 600}
.house .room {fill: #0072b2; stroke: #0072b2; rx: 4px}
.house a {text-decoration: none; fill: var(--color-foreground-primary)}
"""

# A name that is asked for exactly comes first, with or without `tn.` before it
scorer = """
var asked = () => (new URLSearchParams(window.location.search).get('q') || '').trim().toLowerCase()
  .replace(/^(tn|tweetnb)\\./, '').replace(/[._]/g, '-');
var Scorer = {
  score: ([page, title, anchor, , score]) => {
    const place = (anchor || '').replace(/-class$/, ''), q = asked();
    const exact = q && place.startsWith('#tweetnb-') && (place.endsWith('-' + q));
    return score + (exact ? (anchor.endsWith('-class') ? 300 : 200) - place.length : 0);
  },
  objNameMatch: 11, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
"""


def conf():
    "Write Sphinx's settings and the style"
    (src/'conf.py').write_text(f"""
project, author, release = {cfg['title']!r}, {cfg['author']!r}, {cfg['version']!r}
copyright = {'2026, ' + cfg['author']!r}
extensions = ['myst_nb']
nb_execution_mode = 'off'
nb_merge_streams = True
myst_enable_extensions = ['dollarmath', 'attrs_inline']
myst_heading_anchors = 3
html_theme = 'furo'
html_title = {cfg['title']!r}
html_static_path = ['_static']
html_css_files = ['tweetnb.css']
html_extra_path = ['_extra']
html_search_scorer = {str(src/'_static'/'scorer.js')!r}
suppress_warnings = ['mystnb.unknown_mime_type', 'myst.header', 'misc.highlighting_failure', 'toc.not_included']
""", encoding='utf-8')
    (src/'_static').mkdir(exist_ok=True)
    (src/'_static'/'tweetnb.css').write_text(style, encoding='utf-8')
    (src/'_static'/'scorer.js').write_text(scorer, encoding='utf-8')


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'): self.ids.add(a['id'])
        for k in 'href', 'src':
            if a.get(k): self.links.append(a[k])


def check_links():
    "List the links within the site that lead nowhere"
    pages = {p: Links(p.read_text(encoding='utf-8')) for p in out.rglob('*.html')}
    bad = []
    for p, found in pages.items():
        for link in found.links:
            u = urlsplit(link)
            if u.scheme or u.netloc: continue
            target = (p.parent/unquote(u.path)).resolve() if u.path else p
            no_place = u.fragment and target in pages and unquote(u.fragment) not in pages[target].ids
            if no_place or not target.exists(): bad.append(f'{p.relative_to(out)}: {link}')
    return sorted(set(bad))


def main():
    shutil.rmtree(src.parent, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    src.mkdir(parents=True)
    for path in sorted((root/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' not in path.parts: page(path)
    if (root/'nbs'/'images').exists(): shutil.copytree(root/'nbs'/'images', src/'images')
    for path in (root/'nbs'/'docs').glob('*.md'):
        if path.stem != 'architecture': shutil.copy(path, src/'docs'/path.name)
    gallery()
    house()
    index()
    conf()
    html = src.parent/'html'
    failed = build_main(['-q', '-W', '--keep-going', '-b', 'html', '-j', '2', str(src), str(html)])
    if failed: return failed
    shutil.move(html, out)
    bad = check_links()
    print(*bad, sep='\n')
    print(f'{len(list(out.rglob("*.html")))} pages in _docs, {len(names)} public names, {len(bad)} broken links')
    return bool(bad)


if __name__ == '__main__': sys.exit(main())
