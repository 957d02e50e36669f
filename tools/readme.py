"""Make README.md from nbs/index.ipynb, without Quarto: hidden cells left out, pictures as files beside it."""
import re, shutil
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


nb = nbformat.read(root/'nbs'/'index.ipynb', as_version=4)
nb.metadata['language_info'] = {'name': 'python'}
nb.cells = [o for o in map(shown, nb.cells) if o]
text, extra = MarkdownExporter().from_notebook_node(nb, resources={'output_files_dir': pictures.name, 'unique_key': 'index'})
text = re.sub(r'```python\n+```\n*', '', text)
text = re.sub(r'<style.*?</style>\n*', '', text, flags=re.S)
text = text.replace('<table border="1" class="dataframe">', '<table>').replace(' style="text-align: right;"', '')
text = re.sub(r'[ \t]+\n', '\n', text)
text = re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'
shutil.rmtree(pictures, ignore_errors=True)
for name, data in extra['outputs'].items():
    pictures.mkdir(exist_ok=True)
    (root/name).write_bytes(data)
(root/'README.md').write_text('<!-- Made from nbs/index.ipynb by `make readme`: change it there. -->\n\n' + text, encoding='utf-8')
