"An estimator of tweets that reads a matrix of numbers, so that all of scikit-learn's checks can run on it"
from sklearn.utils.validation import validate_data


class MatrixInput:
    "Reads numbers as texts, a word per cell; comes before `TweetClassifier` or `TweetRegressor` in the list of bases"
    def __init__(self, random_state=42):
        super().__init__('tfidf', random_state=random_state)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = tags.input_tags.allow_nan = False
        return tags

    def _settings(self): return {'params': {'min_df': 1, 'C': 3., 'chars': False}}

    def words(self, X, **kwargs):
        rows = validate_data(self, X, **kwargs)
        return [' '.join(f'c{j}v{round(x)}' for j,x in enumerate(row)) for row in rows]

    def fit(self, X, y, sample_weight=None):
        texts = self.words(X)
        n = self.n_features_in_
        super().fit(texts, y, sample_weight)
        self.n_features_in_ = n
        return self


def expected(estimator):
    "Check -> why it cannot hold for texts"
    return {'check_sample_weight_equivalence_on_dense_data':
            'a repeated tweet counts twice in the document frequencies of TF-IDF, a weight of two does not'}
