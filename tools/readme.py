"""Make README.md from nbs/index.ipynb, without Quarto: hidden cells left out, pictures as files beside it."""
import html, re, shutil
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent
pictures = root/'README_files'


def shown(cell):
    "What of a cell a reader of the README sees"
    if cell.cell_type == 'markdown': return cell
    directives, code = re.match(r'((?:\s*#\s*\|.*\n?)*)(.*)', cell.source, re.S).groups()
    if re.search(r'\bhide\b', directives): return None
    cell.source = '' if 'echo: false' in directives else code
    return cell


def table(found):
    "A DataFrame's HTML as Markdown, which takes a line per row"
    rows = []
    for row in re.findall(r'<tr.*?</tr>', found[0], re.S):
        cells = [html.unescape(o).strip() for o in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S)]
        rows.append(f"| {' | '.join(o.replace('|', chr(92) + '|') for o in cells)} |")
    rows.insert(1, '|' + '---|'*(rows[0].count(' | ') + 1))
    return '\n'.join(rows) + '\n'


nb = nbformat.read(root/'nbs'/'index.ipynb', as_version=4)
nb.metadata['language_info'] = {'name': 'python'}
nb.cells = [o for o in map(shown, nb.cells) if o]
places = {'output_files_dir': pictures.name, 'unique_key': 'index'}
text, extra = MarkdownExporter().from_notebook_node(nb, resources=places)
text = re.sub(r'```python\n+```\n*', '', text)
text = re.sub(r'<style.*?</style>\n*', '', text, flags=re.S)
data_frame = r'(?:<div>\n)?<table border="1" class="dataframe">.*?</table>(?:\n</div>)?'
text = re.sub(data_frame, table, text, flags=re.S)
text = re.sub(r'[ \t]+\n', '\n', text)
text = re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'
shutil.rmtree(pictures, ignore_errors=True)
for name, data in extra['outputs'].items():
    pictures.mkdir(exist_ok=True)
    (root/name).write_bytes(data)
note = '<!-- Made from nbs/index.ipynb by `make readme`: change it there. -->'
(root/'README.md').write_text(f'{note}\n\n{text}', encoding='utf-8')
