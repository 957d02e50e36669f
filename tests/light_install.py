"""Ask an installed `tweetnb-serve`, or `tweetnb`, for answers: `python tests/light_install.py BUNDLE...`"""
import json, subprocess, sys, time, urllib.request
from pathlib import Path

tweetnb = str(Path(sys.executable).with_name('tweetnb'))
request = urllib.request.Request('http://127.0.0.1:8765/predict', json.dumps({'texts': ['good morning']}).encode(),
                                 {'Content-Type': 'application/json'})


def ask():
    "Wait for the service; it needs a moment to start"
    for _ in range(240):
        try: return json.load(urllib.request.urlopen(request))['predictions']
        except OSError: time.sleep(.5)
    raise SystemExit('no answer')


for bundle in sys.argv[1:]:
    subprocess.run([tweetnb, 'predict', bundle, '--texts', 'good morning'], check=True)
    server = subprocess.Popen([tweetnb, 'serve', bundle, '--port', '8765'])
    try: print(bundle, ask())
    finally:
        server.terminate()
        server.wait()
print('torch' in sys.modules or __import__('importlib.util').util.find_spec('torch') is not None, '← is PyTorch here?')
