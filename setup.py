"""Build `tweetnb` from `settings.ini`, the one place for its metadata, requirements, extras and console scripts.

With `TWEETNB_DIST=serve` in the environment it is `tweetnb-serve`: the same package, with the few requirements of what
predicts and serves linear models and exported networks. Install one of the two."""
import os
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']

licenses = {'apache2': 'Apache-2.0'}
statuses = ['1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable', '6 - Mature',
            '7 - Inactive']
extras = {name: cfg[f'{name}_requirements'].split() for name in cfg['extras'].split()}
pythons = [f'Programming Language :: Python :: {o}' for o in ('3', *cfg['pythons'].split())]
url,name,required = cfg['git_url'],cfg['lib_name'],cfg['requirements'].split()
package = cfg['lib_path']
apart = 'tpu', 'mlflow'            # another PyTorch; an older pyarrow
extras['dev'] = cfg['dev_requirements'].split() + sum((o for name,o in extras.items() if name not in apart), [])
if os.environ.get('TWEETNB_DIST') == 'serve': name,required,extras = f'{name}-serve',cfg['light_requirements'].split(),{}

setup(
    name=name, version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(),
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], url=url, license=licenses[cfg['license']],
    classifiers=[f"Development Status :: {statuses[int(cfg['status'])-1]}", f"Intended Audience :: {cfg['audience']}",
                 f"Natural Language :: {cfg['language']}", 'Typing :: Typed', *pythons],
    packages=find_packages(include=[package, f'{package}.*']),
    package_data={package: ['py.typed', 'encoder/*', 'sample/*', 'sample/*/*']},
    project_urls={'Changelog': f"{url}/blob/{cfg['branch']}/CHANGELOG.md", 'Issues': f'{url}/issues'},
    python_requires='>='+cfg['min_python'], install_requires=required, extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{name}={package}._modidx:d']},
    zip_safe=False)
