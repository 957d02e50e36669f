#!/usr/bin/env python
"""Write the packaged sample, `tweetnb/sample/`, from our own phrases, the same bytes every time.

    python tools/make_sample.py [FOLDER]

Only the standard library is used, and of its generator only `random()`, which alone is promised to stay the same from
one Python to the next. The phrases and what their marks mean are in `sample_phrases.txt` and `emoji_phrases.txt`
beside this file.
"""
import csv, html, io, random, re, sys
from collections import defaultdict
from datetime import datetime, timedelta
from math import fsum
from pathlib import Path

HERE = Path(__file__).resolve().parent
LABELS = {'-': 'negative', '0': 'neutral', '+': 'positive'}
SHARES = {'-': .39, '0': .25, '+': .36}
# Rows of tweets.csv that no reader can use: three without a text, one without a label, one cut off
BAD_ROWS = {212: ['', 'negative'], 655: ['   ', 'neutral'], 1104: ['', 'positive'],
            1490: ['@user did you see this', ''], 1777: []}
N_TWEETS, N_TEST, N_PAIR, N_S140, N_S140_TEST, N_EMOJI = 2_000, 200, 700, 800, 120, 600

# Where two feelings meet in a tweet, the last word has it, or the first: {a} is what the label is not, {b} what it is
CONTRASTS = ['{a}, but {b}', '{a} but {b}', '{a}. {b} though', '{b}, even if {a}', 'ok, {a}, but {b}',
             '{b}. {a}, I know, but still', 'yes, {a}. {b} all the same', '{b}, although {a}', '{b}. even though {a}',
             '{a} and yet {b}', '{a}... but {b}']
JOINS = [', ', '. ', '. ', '. ', ' and ', ' - ', '... ', ': ', ' & ', ', ']
EMOJI = {'+': '😍 😊 🎉 🥰 ❤️ 🙌 🙌🏽 👏 💕 😁 ✨ 🤗 💪🏼 👍🏾 🔥 ☀️ 👩‍❤️‍👨 🥹'.split(),
         '-': '😡 😭 😩 🙄 😤 💔 🤦‍♀️ 🤦🏽‍♂️ 👎 😞 🤬 😒 🤷🏻‍♂️ 🥴 😑 ☹️'.split(),
         '0': '🤔 👀 📷 🚆 ☕️ 📌 👉 🤷‍♀️ ➡️ 🙂 📚 🧐 👇🏻 🗓️'.split(), '?': '😂 🤣 😅 💀 🙃 😭 👀 😬 🫠'.split()}
EMOTICONS = {'+': [':)', ':-)', ':D', '<3', ';)', 'xx'], '-': [':(', ':-(', ':/', '</3', '>:('],
             '0': [':)', ':/', ';)']}
FILLERS = {'+': ['omg', 'ngl', 'honestly', 'lol', 'tbh', 'ahh'],
           '-': ['smh', 'tbh', 'lol', 'argh', 'honestly', 'ugh', 'ngl'],
           '0': ['hi,', 'btw', 'so', 'tbh', 'random but', 'ok']}
LAST = ('ngl', 'tbh', 'lol', 'smh', 'honestly', 'btw')     # the ones that may also stand at the end
SLANG = {'you': 'u', 'people': 'ppl', 'please': 'pls', 'because': 'cos', 'tonight': '2nite', 'really': 'rly',
         'with': 'w/', 'thanks': 'thx', 'going to': 'gonna', 'tomorrow': 'tmrw', 'your': 'ur', 'about': 'abt',
         'and': '&', 'for': '4', 'before': 'b4', 'minutes': 'mins'}
STRETCH = {'so': 'o', 'love': 'o', 'no': 'o', 'yes': 's', 'good': 'o', 'please': 'e', 'way': 'a', 'what': 'a',
           'never': 'e', 'all': 'l', 'again': 'n', 'why': 'y', 'bad': 'a', 'great': 'a', 'finally': 'l', 'best': 'e',
           'now': 'w', 'tired': 'i', 'day': 'y'}
HANDLES = ('maja_bakes', 'northline_help', 'otters_fc', 'tom_from_hull', 'priya_reads', 'citytrams', 'thebeanplace',
           'kofi_k9', 'lena__p', 'quizbrain', 'user', 'user', 'user', 'nadia_runs', 'allotment_bea', 'fibre4u_care',
           'rory_o', 'our_library', 'ParcelPals')
EMOJI_NAMES = {'person_facepalming': '🤦', 'rolling_on_the_floor_laughing': '🤣', 'see-no-evil_monkey': '🙈',
               'weary_face': '😩', 'thinking_face': '🤔', 'red_heart': '❤', 'fire': '🔥', 'party_popper': '🎉',
               'loudly_crying_face': '😭', 'face_with_tears_of_joy': '😂', 'sparkles': '✨', 'folded_hands': '🙏',
               'female_sign': '♀', 'male_sign': '♂', 'eyes': '👀'}


class Dice:
    "Chance, made of `random()` alone"
    def __init__(self, seed): self.rng,self.decks = random.Random(seed),{}
    def __call__(self, p): return self.rng.random() < p
    def below(self, n): return int(self.rng.random() * n)
    def pick(self, seq): return seq[self.below(len(seq))]
    def shuffled(self, seq): return [x for _,x in sorted([(self.rng.random(), x) for x in seq], key=lambda p: p[0])]
    def weighted(self, weights):
        r = self.rng.random() * fsum(weights.values())
        for key,w in weights.items():
            if (r := r - w) < 0: return key
        return key
    def deal(self, name, seq):
        "Like `pick`, but every item comes once before any comes again"
        if not self.decks.get(name): self.decks[name] = self.shuffled(seq)
        return self.decks[name].pop()


class Phrases:
    "The phrase file: `by[topic][mark]` are its lines, `words[slot]` its word lists"
    def __init__(self, path):
        self.by,self.words,topic = defaultdict(lambda: defaultdict(list)),{},None
        for line in path.read_text(encoding='utf-8').splitlines():
            if line.startswith('== '): topic = line[3:]
            elif topic and line:
                mark,text = line.split(' ', 1)
                if topic == 'words': self.words[mark.rstrip(':')] = text.split(', ')
                else: self.by[topic][mark].append(text)
        self.topics = [t for t in self.by if t not in ('any', 'short')]

    def fill(self, text, dice, subject=''):
        "Choose among [a|b] and put words into {slots}, never the same word twice"
        text,seen = re.sub(r'\[([^\[\]]*\|[^\[\]]*)\]', lambda m: dice.pick(m[1].split('|')),
                           text.replace('{s}', subject)),set()
        def word(m):
            while (w := dice.pick(self.words[m[1]])) in seen: pass
            return seen.add(w) or w
        return re.sub(' +', ' ', re.sub(r'\{(\w+)\}', word, text)).strip()


class Writer:
    "Makes up tweets: `write(mark)` returns text, topic and the way it was put together"
    kinds = {'+': dict(opened=.37, clause=.12, double=.13, general=.14, whole=.12, contrast=.09, short=.03)}
    kinds['-'],kinds['0'] = kinds['+'],dict(opened=.29, opener=.09, clause=.26, double=.06, general=.15, whole=.11,
                                            short=.04)

    def __init__(self, phrases, dice): self.p,self.dice = phrases,dice
    def deal(self, topic, mark): return self.p.fill(self.dice.deal((topic, mark), self.p.by[topic][mark]), self.dice)
    def topic(self): return self.dice.deal('topic', self.p.topics)

    def write(self, mark):
        dice,topic,kind = self.dice,self.topic(),self.dice.weighted(self.kinds[mark])
        if kind == 'short': return self.deal('short', f'w{mark}'), 'any', kind
        if kind == 'whole':
            if dice(.25): topic = 'any'
            return self.deal(topic, f'w{mark}'), topic, kind
        if kind == 'general':
            subject = self.p.fill(dice.deal((topic, 's'), self.p.by[topic]['s']), dice)
            text = self.p.fill(dice.deal(f'g{mark}', self.p.by['any'][f'g{mark}']), dice, subject)
            if dice(.3): text = f"{self.deal(topic, 'o')}. {text}"
        elif kind == 'contrast':
            text = dice.pick(CONTRASTS).format(a=self.deal(topic, '-' if mark == '+' else '+'),
                                               b=self.deal(topic, mark))
            if dice(.2): text = f"{self.deal(topic, 'o')}. {text}"
        elif kind == 'opener': text = self.deal(topic, 'o')
        else:
            text = self.deal(topic, mark)
            if kind == 'double':
                while (more := self.deal(topic, mark)) == text: pass
                text += dice.pick(['. ', ', ', ' and ', '. also ']) + more
            if kind == 'opened' or kind == 'double' and dice(.4): text = self.deal(topic, 'o') + dice.pick(JOINS) + text
        if kind != 'contrast' and dice(.11): text += dice.pick(['. ', ', ', '. ', '\n']) + self.deal('any', mark)
        return re.sub(r'([?!])[.,](?=\s)', r'\1', text), topic, kind


class Voice:
    "The way people type: case, apostrophes, slang, slips, emoji, hashtags, mentions, links"
    def __init__(self, phrases, dice, era=2023): self.p,self.dice,self.era = phrases,dice,era

    def __call__(self, text, mark, topic):
        dice,modern = self.dice,self.era > 2015
        case = dice.weighted(dict(lower=.38, sentence=.47, asis=.12, shout=.02))
        if dice(.22): text = self.slang(text)
        if dice(.12): text = self.stretch(text)
        if dice(.06): text = self.slip(text)
        if dice(.12): text = f'{f} {text}' if (f := dice.pick(FILLERS[mark])) not in LAST or dice(.6) else f'{text} {f}'
        text = self.case(text, case)
        text = text.replace("'", dice.weighted({"'": .62, '’' if modern else "'": .24, '': .14}))
        text = self.ending(text, mark)
        if dice(.05): text = re.sub(r'(?<=[.!?]) ', '\n' if modern else '  ', text)
        if modern and dice(.07): text += ' ' + dice.pick(EMOTICONS[mark])
        elif modern and dice(.30): text = self.emoji(text, mark)
        if dice(.15 if modern else .05): text = self.hashtag(text, topic)
        if dice(.16 if modern else .38): text = self.mention(text)
        if dice(.18 if mark == '0' else .06): text = f'{text} {self.link()}'
        return text

    def case(self, text, case):
        if case == 'lower': return text.lower()
        if case == 'shout': return text.upper()
        if case == 'asis': return text
        return re.sub(r'(^|[.?!]\s+)([a-z])', lambda m: m[1] + m[2].upper(), text)

    def slang(self, text):
        for word,short in SLANG.items():
            if self.dice(.6): text = re.sub(rf'\b{word}\b', short, text)
        return text

    def stretch(self, text):
        found = [m for m in re.finditer(r'[A-Za-z]+', text) if m[0].lower() in STRETCH]
        if not found: return text
        m,times = self.dice.pick(found),2 + self.dice.below(4)
        at = m.start() + m[0].lower().rindex(STRETCH[m[0].lower()])
        return text[:at] + text[at]*times + text[at:]

    def slip(self, text):
        found = [m for m in re.finditer(r'\b[a-z]{5,}\b', text)]
        if not found: return text
        i = self.dice.pick(found).start() + 1 + self.dice.below(3)
        return text[:i] + text[i+1] + text[i] + text[i+2:] if self.dice(.6) else text[:i] + text[i+1:]

    def ending(self, text, mark):
        if text[-1] in '.?!)"': return text
        ends = {'': .58, '.': .17, '!': .08 if mark != '0' else .03, '!!': .04 if mark != '0' else .01, '...': .07,
                ' lol': .02, '!!!': .02}
        return text + self.dice.weighted(ends)

    def emoji(self, text, mark):
        e = self.dice.pick(EMOJI[mark if self.dice(.74) else '?'])
        e = e*(1 + self.dice.below(3)) if self.dice(.3) else e + self.dice.pick(EMOJI[mark]) if self.dice(.15) else e
        return f'{e} {text}' if self.dice(.08) else text + self.dice.pick([' ', ' ', '']) + e

    def hashtag(self, text, topic):
        tags = self.dice.shuffled(self.p.by[topic]['#'])[:1 + self.dice(.25)]
        return ' '.join([text, *(f"#{t.lower() if self.dice(.25) else t}" for t in tags)])

    def mention(self, text):
        who,how = '@' + self.dice.pick(HANDLES),self.dice.weighted(dict(start=.7, end=.12, cc=.05, two=.13))
        if how == 'start': return f'{who} {text}'
        if how == 'two': return f"{who} @{self.dice.pick(HANDLES)} {text}"
        return f'{text} {who}' if how == 'end' else f'{text} (cc {who})'

    def link(self):
        letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'
        code = ''.join(self.dice.pick(letters) for _ in range(10))
        if self.era < 2015:
            return f"http://{self.dice.pick(['twitpics', 'bitlink', 'tinylink'])}.example/{code[:5].lower()}"
        return f'https://t.co/{code}' if self.dice(.85) else f'www.example.com/{code[:4].lower()}'


def key(text):
    "What is left of a tweet without mentions, links, case, marks and emoji: two tweets of one key are duplicates"
    text = re.sub(r'^RT |@\w+|https?://\S+|www\.\S+', ' ', html.unescape(text))
    return ' '.join(re.findall(r'[^\W_]+', text.lower()))

def disagree(mark, kind, dice):
    "What another annotator would have said: mostly the same, a neighbour where it is close, or the opposite"
    if kind == 'contrast' and dice(.10): return dice.weighted({'0': .5, {'+': '-', '-': '+'}[mark]: .5})
    if kind != 'contrast' and dice(.03): return '0' if mark != '0' else dice.pick('+-')
    return mark

def entities(text, quotes=False): return html.escape(text, quote=False).replace('"', '&quot;' if quotes else '"')

def mojibake(text):
    "UTF-8 read as Windows-1252; the five bytes that it lacks become controls"
    def wrong(b):
        try: return bytes([b]).decode('cp1252')
        except UnicodeDecodeError: return chr(b)
    return ''.join(map(wrong, text.encode('utf-8')))

def compose(n, writer, voice, seen, marks=None, finish=entities):
    "`n` tweets with keys that are not yet in `seen`, as (text, mark, kind, topic)"
    dice,todo = writer.dice,[]
    for mark,share in (marks or SHARES).items(): todo += [mark] * round(n * share)
    out = []
    for mark in dice.shuffled(todo[:n] + ['-']*(n - len(todo))):
        while True:
            text,topic,kind = writer.write(mark)
            text = finish(voice(text, mark, topic))
            if (k := key(text)) and k not in seen and len(html.unescape(text)) <= 280: break
        seen.add(k)
        out.append((text, disagree(mark, kind, dice), kind, topic))
    return out

def repeat(tweets, dice, voice, exact=40, near=70, conflicts=14):
    "Copies of some tweets: exact ones, retweets and other near ones, and some that somebody else labelled otherwise"
    out,pool = [],dice.shuffled([t for t in tweets if t[2] != 'short'])
    for i in range(exact + near):
        text,mark,*_ = pool[i]
        if i >= exact:
            text = dice.pick([f'RT @{dice.pick(HANDLES)}: {text}', f'@user {text}', f'{text} {voice.link()}',
                              f'{text} 😂', f'{text}!!!',
                              f'{text}...' if set('/&@') & set(text) else text.upper() + '!'])
        if i % 8 == 0 and i//8 < conflicts: mark = dice.pick([m for m in LABELS if m != mark])
        out.append((text, mark, 'repeat'))
    return out

def ids(n, dice):
    "Invented IDs of 2023, 19 digits as Twitter's are, no two the same"
    found = {}
    while len(found) < n: found[1609700000000000000 + dice.below(10**9)*120_000_000 + dice.below(4096)] = None
    return [str(i) for i in found]

def table(rows, header=None, **kw):
    out = io.StringIO()
    csv.writer(out, lineterminator='\n', **kw).writerows([header, *rows] if header else rows)
    return out.getvalue().encode('utf-8')


def tweets_files(phrases):
    "tweets.csv and its test set, with and without labels, and the form of a submission"
    dice,seen = Dice(1),set()
    writer,voice = Writer(phrases, dice),Voice(phrases, dice)
    test = compose(N_TEST, writer, voice, seen)
    tweets = compose(N_TWEETS - 110, writer, voice, seen)
    damaged = [i for i,(t,*_) in enumerate(tweets) if '’' in t or 'é' in t or '😂' in t][:12]
    for i in damaged: tweets[i] = (mojibake(tweets[i][0]), *tweets[i][1:])
    tweets += repeat(tweets, dice, voice)
    numbers = ids(len(tweets) + len(test) + len(BAD_ROWS), dice)
    rows = [[numbers.pop(), t, LABELS[m]] for t,m,*_ in dice.shuffled(tweets)]
    for at,bad in BAD_ROWS.items(): rows.insert(at, [numbers.pop(), *bad])
    answers = [[numbers.pop(), t, LABELS[m]] for t,m,*_ in test]
    return {'tweets.csv': table(rows, ['id', 'text', 'label']),
            'tweets_test.csv': table([r[:2] for r in answers], ['id', 'text']),
            'tweets_test_labelled.csv': table(answers, ['id', 'text', 'label']),
            'sample_submission.csv': table([[r[0], 'neutral'] for r in answers], ['id', 'label'])}


def tweeteval_files(phrases):
    "A text file and a label file that belong together line by line, and the names of the labels"
    dice,seen = Dice(2),set()
    def finish(text):
        text = re.sub(r'@\w+', '@user', entities(text)).replace('\n', ' ')
        return text.replace('’', '\\u2019') if dice(.4) else text
    tweets = compose(N_PAIR, Writer(phrases, dice), Voice(phrases, dice), seen, finish=finish)
    texts,labels = [t + ' '*dice(.3) for t,*_ in tweets],['-0+'.index(m) for _,m,*_ in tweets]
    texts[120] = texts[120].replace(' ', '\x85', 1)
    texts[240] = texts[240].replace(' ', '\u2028', 1)
    texts[360] = ''
    return {'tweeteval/pair_text.txt': ''.join(f'{t}\n' for t in texts).encode('utf-8'),
            'tweeteval/pair_labels.txt': ''.join(f'{l}\n' for l in labels).encode(),
            'tweeteval/mapping.txt': ''.join(f'{i}\t{m}\n' for i,m in enumerate(LABELS.values())).encode()}


def sentiment140_files(phrases):
    "The layout of Sentiment140: six quoted columns and no header, training rows sorted by label, latin-1 and CRLF"
    dice,seen = Dice(3),set()
    writer,voice = Writer(phrases, dice),Voice(phrases, dice, era=2009)
    def finish(text):
        return entities(text.replace('\n', ' ').encode('latin-1', 'ignore').decode('latin-1'),
                        quotes=dice(.5)) + ' '*dice(.2)
    train = compose(N_S140, writer, voice, seen, {'-': .5, '+': .5}, finish)
    test = compose(N_S140_TEST, writer, voice, seen, {'-': .36, '0': .28, '+': .36}, finish)
    start,marks = datetime(2009, 4, 6, 22, 19, 45),{'-': '0', '0': '2', '+': '4'}
    def users(): return dice.pick(HANDLES) + str(dice.below(100))
    def row(at, text, mark, number, zone='PDT', flag='NO_QUERY'):
        return [marks[mark], str(number), (start + timedelta(seconds=at)).strftime(f'%a %b %d %H:%M:%S {zone} %Y'),
                flag, users(), text]
    rows = []
    for at,(text,mark,*_) in zip(sorted(dice.below(6_100_000) for _ in train), train):
        if mark == '0': mark = dice.pick('-+')      # the smileys that labelled the real one know no third answer
        rows.append(row(at, text, mark, 1467810369 + at*119 + dice.below(119)))
    rows.sort(key=lambda r: r[0])
    # U+FFFD that went through latin-1
    for i in (57, 333, 610): rows[i][5] = rows[i][5].replace(' ', ' ï¿½ ', 1)
    for i in (101, 402, 703): rows[i][5] = rows[i][5].rstrip() + ' that\x92s all'          # a Windows apostrophe
    times = sorted(dice.below(3_000_000) for _ in test)
    held = [row(at, text, mark, i + 3, 'UTC', topic) for i,(at,(text,mark,_,topic)) in enumerate(zip(times, test))]
    crlf = table(rows, quoting=csv.QUOTE_ALL).decode().replace('\n', '\r\n').removesuffix('\r\n')
    return {'sentiment140.csv': crlf.encode('latin-1'), 'sentiment140_test.csv': table(held, quoting=csv.QUOTE_ALL)}


def emojify_file(phrases):
    "One word a line, `O` or the emoji that follows the word behind it, as emojifydata has it"
    dice,own = Dice(4),emoji_phrases()
    main = ['person_facepalming', 'rolling_on_the_floor_laughing', 'see-no-evil_monkey', 'weary_face', 'thinking_face']
    rest = [a for a in own if a not in main and a != 'o']
    near = dict(zip(main, [main[2], main[2], main[1], main[0], main[3]]))      # what somebody else would have put there
    writer,voice,seen,tweets = Writer(phrases, dice),Voice(phrases, dice),set(),[]
    borrowed = {'weary_face': '-', 'thinking_face': '0', 'person_facepalming': 'w-'}
    def said(alias):
        if alias in borrowed and dice(.28):
            while '?' not in (t := writer.deal(writer.topic(), borrowed[alias])) and alias == 'thinking_face': pass
            return t
        return phrases.fill(dice.deal(alias, own[alias]), dice)
    while len(tweets) < N_EMOJI - 30:
        alias = dice.weighted(dict(zip(main, (.19, .18, .16, .15, .17)))) if dice(.82) else dice.pick(rest)
        text = said(alias)
        if dice(.4): text = f"{phrases.fill(dice.deal('o', own['o']), dice)} {text}"
        if dice(.07) and alias in main: alias = near[alias]
        text = voice.case(voice.stretch(voice.slang(text)) if dice(.2) else text,
                          dice.weighted(dict(lower=.35, sentence=.55, shout=.03)))
        if key(text) in seen: continue
        seen.add(key(text))
        tweets.append(decorate(text, alias, dice))
    tweets += ['', '', '🤣', '🤦🏽‍♀️', '❤️🙏', '🤔 ' + said('thinking_face'), '😩 ' + said('weary_face'),
               '✨ ' + said('fire') + ' ✨']
    tweets += [writer.write(dice.pick('-0+'))[0] for _ in range(N_EMOJI - len(tweets))]
    return {'emojify.txt': '\n'.join(map(layout, dice.shuffled(tweets))).encode('utf-8')}

def emoji_phrases():
    own = defaultdict(list)
    for line in (HERE/'emoji_phrases.txt').read_text(encoding='utf-8').splitlines():
        if not line.startswith('#'): own[line.split(' ', 1)[0]].append(line.split(' ', 1)[1])
    return own

def decorate(text, alias, dice):
    "Put the emoji behind the text, with the skin tones and joiners of phones, and sometimes more text or more emoji"
    def one(*aliases): return EMOJI_NAMES[dice.pick(aliases)]
    emoji = one(alias)
    people = [f'{skin}\u200d{who}\ufe0f' for skin in ('', '🏽', '🏼') for who in '♀♂']
    if alias == 'person_facepalming': emoji += dice.pick(['', '', '🏾', *people])
    if alias == 'red_heart': emoji += '\ufe0f'
    emoji *= 1 + dice.below(3)*dice(.35)
    if dice(.12): emoji += one('face_with_tears_of_joy', 'loudly_crying_face', 'folded_hands', 'eyes')
    if dice(.15):
        emoji += ' ' + dice.pick(['but anyway', 'lol', 'send help', 'thank you', 'what a day', 'love it', 'omg'])
    if dice(.2): emoji += ' ' + dice.pick(['', 'also', 'bye']) + one('face_with_tears_of_joy', 'sparkles', 'eyes')
    if dice(.05): emoji += one('folded_hands') + '🏻'
    return text + ' '*dice(.8) + emoji

def layout(tweet):
    "The lines of one tweet: the first emoji behind a word tags it, modifiers are words, ASCII marks are gone, & is amp"
    names,lines = {e: n for n,e in EMOJI_NAMES.items()},[['<START>', 'O']]
    text = re.sub(r'[!-/:-@\[-`{-~]', '', tweet.replace('&', ' amp '))
    for token in re.findall('[' + ''.join(names) + ']|[🏻🏼🏽🏾🏿]|\u200d|\ufe0f|[^\\s\u200d\ufe0f🏻🏼🏽🏾🏿' + ''.join(names)
                            + ']+', text):
        if token in names: lines[-1][1] = f':{names[token]}:' if lines[-1][1] == 'O' else lines[-1][1]
        else: lines.append([token, 'O'])
    return ''.join(f'{w} {t}\n' for w,t in [*lines, ['<STOP>', 'O']])


def make_files():
    "All files of the sample: name -> bytes"
    phrases = Phrases(HERE/'sample_phrases.txt')
    return tweets_files(phrases) | tweeteval_files(phrases) | sentiment140_files(phrases) | emojify_file(phrases)

def main(folder=HERE.parent/'tweetnb'/'sample'):
    for name,content in make_files().items():
        path = Path(folder)/name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(f'{len(content):>8,} bytes  {path}')

if __name__ == '__main__': main(*sys.argv[1:])
