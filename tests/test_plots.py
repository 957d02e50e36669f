"""Plots: what is drawn is what the tables say, and the caller's settings stay."""
from types import SimpleNamespace

import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from tweetnb.core import TweetnbError
from tweetnb.evaluate.mistakes import accuracy_by
from tweetnb.evaluate.plots import (drawable, history, plot_comparison, plot_confidence, plot_confusion, plot_groups,
                                    plot_history, plot_style, plot_words)
from tweetnb.metrics import Scores

labels = ['😩', '$a$', 'long'*10, 7]
true = np.array(labels*5, dtype=object)
scores = Scores(true, np.roll(true, 1), labels)
epochs = pd.DataFrame(dict(train_loss=[1., .8, .7], valid_loss=[1., .9, .95], accuracy=[.5, .6, .55],
                           macro_f1=[.4, .5, .6]))

@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

def test_every_plot_draws_and_leaves_the_settings_alone():
    before = dict(plt.rcParams)
    probs = pd.DataFrame(np.random.default_rng(0).dirichlet(np.ones(4), 20), columns=labels)
    words = pd.DataFrame(dict(word=labels, x=[0, 0, 1, 2], y=[0, 0, 1, 2]))
    axes = [plot_confusion(scores), plot_history(epochs)[0], plot_groups(accuracy_by(true, true, true), .5),
            plot_confidence(probs, true)[0], plot_words(words), plot_comparison({'a 😩': .5, 'b': .7}, .4)]
    for ax in axes: ax.figure.canvas.draw()
    assert dict(plt.rcParams) == before
    with pytest.raises(ZeroDivisionError):
        with plot_style(): 1/0
    assert dict(plt.rcParams) == before

def test_the_first_plot_does_not_end_the_interactive_mode():
    "A notebook's backend turns it on while the first figure is made, inside the style"
    with plot_style(): plt.ion()
    assert plt.isinteractive()
    plt.ioff()

@given(st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_label_is_short_and_no_mathematics(text):
    shown = drawable(text)
    assert len(shown) <= 18 and len(shown.replace(r'\$', '').split('$')) <= 2

def test_history_of_epochs_steps_and_results():
    t = history(epochs)
    assert t['epoch'].tolist() == [1, 2, 3]*2 and t['set'].tolist() == ['train']*3 + ['valid']*3
    assert t.loc[t['set'] == 'valid', 'loss'].tolist() == epochs['valid_loss'].tolist()
    pd.testing.assert_frame_equal(history(SimpleNamespace(history=epochs)), t)
    pd.testing.assert_frame_equal(history(epochs.assign(epoch=[0, 1, 2])), t)
    steps = t.rename(columns=dict(epoch='step'))
    assert history(steps) is steps
    for empty in SimpleNamespace(history=None), epochs[:0]:
        with pytest.raises(TweetnbError, match='no training history'): history(empty)

def test_rings_mark_the_best():
    loss, f1 = plot_history(epochs, ['loss', 'macro_f1'])
    rings = [[line.get_xydata()[0].tolist() for line in ax.lines if line.get_markersize() == 9] for ax in (loss, f1)]
    assert rings == [[[2, .9]], [[3, .6]]]
    assert plot_history(epochs, ['loss', 'macro_f1'], [loss, f1])[0] is loss and len(plt.get_fignums()) == 1
