"""The n-gram model trained by sparse gradient descent: the same numbers as autograd gives, and its edges"""
import numpy as np, pytest, torch
from pathlib import Path
from torch.nn.functional import cross_entropy

from tweetnb.core import TweetnbError
from tweetnb.models.ngram import NgramClassifier, fit_ngram, ngram_proba, ngram_rows
from tweetnb.text.tokens import TokenStore

def store_of(*tweets):
    "A token store of lists of ids"
    return TokenStore(np.concatenate(tweets).astype(np.int32), np.cumsum([0, *map(len, tweets)]))

def random_store(n=200, vocab=30, seed=0):
    rng = np.random.default_rng(seed)
    return store_of(*[rng.integers(1, vocab, rng.integers(1, 9)) for _ in range(n)]), rng.integers(0, 3, n)

def padded(store):
    width = int(store.lengths.max())
    ids = torch.tensor([[*tweet.tolist()] + [0]*(width - len(tweet)) for tweet in store])
    return ids, torch.from_numpy(store.lengths)

def small(**kwargs):
    torch.manual_seed(0)
    return NgramClassifier(30, 3, **{'n_emb': 5, 'n_buckets': 60, **kwargs}).eval()

kinds = [dict(), dict(max_n=1), dict(max_n=4), dict(max_n=4, space_id=3), dict(min_n=2, max_n=3),
         dict(min_n=3, max_n=5, space_id=3)]

@pytest.mark.parametrize('kwargs', kinds)
def test_tables_answer_as_the_module_does(kwargs):
    model,(store,_) = small(**kwargs), random_store()
    expected = model(*padded(store)).softmax(1).detach().numpy()
    np.testing.assert_allclose(ngram_proba(model, ngram_rows(model, store, block=7), bs=13), expected, atol=1e-6)

@pytest.mark.parametrize('kwargs', kinds)
def test_one_step_is_the_step_of_autograd(kwargs):
    store,y = random_store(40)
    model,other = small(**kwargs), small(**kwargs)
    fit_ngram(model, store, y, epochs=1, bs=40, lr=.1, crowd=1e9)
    cross_entropy(other(*padded(store)), torch.from_numpy(y), reduction='sum').backward()
    for a,b in zip(model.parameters(), other.parameters()):
        expected = b - .1*(0 if b.grad is None else b.grad)
        torch.testing.assert_close(a, expected, atol=1e-5, rtol=1e-4)

def test_class_weights_multiply_the_gradient():
    store,y = random_store(40)
    weight = [1., 2., .5]
    model,other = small(), small()
    fit_ngram(model, store, y, epochs=1, bs=40, lr=.1, crowd=1e9, class_weight=weight)
    loss = cross_entropy(other(*padded(store)), torch.from_numpy(y), weight=torch.tensor(weight), reduction='sum')
    loss.backward()
    torch.testing.assert_close(model.head.weight, other.head.weight - .1*other.head.weight.grad, atol=1e-5, rtol=1e-4)

def test_a_seed_is_repeated_to_the_bit_with_any_number_of_threads():
    store,y = random_store()
    before,weights = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model = small()
        fit_ngram(model, store, y, epochs=3, seed=7)
        weights.append([o.detach().clone() for o in model.parameters()])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a,b in zip(*weights))

def test_patience_goes_back_to_the_best_epoch():
    (store,y),(other,noise) = random_store(), random_store(seed=1)
    model = small()
    history = fit_ngram(model, store, y, (other, noise), epochs=60, lr=.5, patience=2)
    losses = [o['valid_loss'] for o in history]
    assert len(history) == int(np.argmin(losses)) + 3 < 60
    probs = ngram_proba(model, ngram_rows(model, other))
    right = np.maximum(probs[np.arange(len(noise)), noise], 1e-12)
    assert -np.log(right).mean() == pytest.approx(min(losses), abs=1e-5)

def test_few_tweets_get_more_epochs():
    store,y = random_store(10)
    assert len(fit_ngram(small(), store, y)) == 50

def test_the_loss_that_runs_away_is_an_error():
    store,y = random_store()
    with pytest.raises(TweetnbError, match='lower learning rate'): fit_ngram(small(), store, y, lr=1e6, crowd=1e9)

def test_a_tweet_without_ngrams_gets_the_bias():
    model = small(min_n=3, max_n=4)
    store = store_of([4, 5], [6])
    expected = model.head.bias.softmax(0).detach().numpy()
    np.testing.assert_allclose(ngram_proba(model, ngram_rows(model, store)), [expected]*2, atol=1e-6)

def test_ngrams_of_characters_stay_in_their_word():
    a,b,space = 1, 2, 3
    model = small(min_n=3, max_n=3, space_id=space)
    rows = ngram_rows(model, store_of([a, b, space, b, a], [a, space, b]))
    assert rows.lengths.tolist() == [2, 0]

@pytest.mark.parametrize('name', ['ngram'])
def test_a_bundle_of_the_first_release_still_answers_the_same(name):
    import json
    from safetensors.torch import load_file
    from tweetnb.models.recurrent import create_model
    folder = Path(__file__).parent/'bundles'/'0.1.0'/name
    info = json.loads((folder/'bundle.json').read_text(encoding='utf-8'))
    model = create_model(**info['model']).eval()
    model.load_state_dict(load_file(folder/'model.safetensors'))
    assert (model.min_n, model.max_n, model.space_id) == (1, 2, None)
