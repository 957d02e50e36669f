"""Make `nbs/images/app.png`: the page over the packaged classifiers, with three tweets typed in. Needs Chromium.

With a folder as argument, pictures at three widths, light and dark, are put there as well, to be looked at."""
import os, shutil, subprocess, sys
from pathlib import Path

from playwright.sync_api import sync_playwright

root = Path(__file__).resolve().parent.parent
tweets = 'what a lovely morning 😍', 'the bus is late AGAIN, and nobody says why', 'meeting moved to 3pm'
code = ('from tweetnb.ship.app import run_app\nfrom tweetnb.train.encoders import packaged_bundles\n'
        'run_app(packaged_bundles(), port=0)')


def take(browser, address, path, width, height, scheme):
    "Classify the tweets and take a picture"
    page = browser.new_context(viewport=dict(width=width, height=height), color_scheme=scheme).new_page()
    page.goto(address)
    page.get_by_label('Tweets, one per line').fill('\n'.join(tweets), timeout=60_000)
    page.keyboard.press('Control+Enter')
    page.get_by_text('Blue words argue').wait_for(timeout=60_000)
    page.wait_for_timeout(1000)
    page.screenshot(path=path)
    page.context.close()


def main():
    names = 'chromium', 'chromium-browser', 'google-chrome'
    chromium = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, names)))
    server = subprocess.Popen([sys.executable, '-uc', code], stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        address = server.stdout.readline().split('at ')[1].split('. ')[0]
        with sync_playwright() as p:
            browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu'])
            take(browser, address, root/'nbs'/'images'/'app.png', 800, 1080, 'light')
            for folder in map(Path, sys.argv[1:]):
                for width in 375, 800, 1280:
                    for scheme in 'light', 'dark':
                        take(browser, address, folder/f'{width}-{scheme}.png', width, 900, scheme)
            browser.close()
    finally: server.terminate()


if __name__ == '__main__': main()
