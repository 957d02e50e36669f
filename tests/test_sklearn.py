"scikit-learn's own checks of estimators, its tools around ours, and what only a file can hold: processes, containers"
import subprocess, sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import tweetnb as tn
from tweetnb.core import TweetnbError, sample_path
from tweetnb.data.clean import PRESETS, Cleaner
from tweetnb.data.read import read_tweets

linear = tn.TweetClassifier('tfidf')

@pytest.fixture(scope='module')
def tweets():
    df = read_tweets(sample_path('tweets.csv'), label=True)[:300]
    return df['text'].reset_index(drop=True), df['label'].astype(str).to_numpy()

@parametrize_with_checks([tn.TweetClassifier('tfidf'), tn.TweetClassifier(), tn.CleanTransformer()])
def test_checks(estimator, check):
    "The checks that need no matrix of numbers; scikit-learn leaves out the others for an input of strings"
    check(estimator)

class Numbers(tn.TweetClassifier):
    "Reads a matrix of numbers as texts, a word per cell, so that all checks of scikit-learn can run"
    def __init__(self, params={'min_df': 1}, random_state=42):
        super().__init__('tfidf', params=params, random_state=random_state)
