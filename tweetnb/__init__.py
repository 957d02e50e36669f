"""From a file of tweets to the best classifier for it: `import tweetnb as tn`, then `tn.train('tweets.csv')`.

Names are imported when they are first used (PEP 562), so `import tweetnb` takes no time and brings no PyTorch."""
__version__ = "0.1.0"

import importlib, sys
from types import ModuleType

from .threads import set_wait_policy

set_wait_policy()          # before libgomp is loaded: two trainings on one machine must not spin against each other

_names = {
    'train': 'auto', 'load': 'ship.bundle', 'TweetClassifier': 'sklearn', 'CleanTransformer': 'sklearn',
    'TweetRegressor': 'sklearn',
    'read_tweets': 'data.read', 'load_dataset': 'data.datasets', 'load_sample': 'data.datasets',
    'DATASETS': 'data.datasets',
    'Cleaner': 'data.clean', 'audit': 'data.audit', 'split_tweets': 'data.split', 'kfold_tweets': 'data.split',
    'Config': 'train.fit', 'default_config': 'train.fit', 'config_from': 'train.fit', 'fit': 'train.fit',
    'fit_folds': 'train.fit', 'tweet_learner': 'train.learner', 'runner': 'train.devices',
    'LinearClassifier': 'models.linear', 'NetworkClassifier': 'models.network', 'Ensemble': 'models.ensemble',
    'combine': 'ship.bundle', 'push_to_hub': 'ship.bundle', 'export_onnx': 'ship.export', 'predict_file': 'ship.shards',
    'predict_dataset': 'ship.shards',
    'decide': 'ship.bundle', 'drift': 'evaluate.drift', 'suggest': 'train.suggest', 'doctor': 'ship.doctor',
    'compare': 'evaluate.compare', 'recipe': 'recipes', 'Scores': 'metrics', 'TweetnbError': 'core',
    'sample_path': 'core', 'app': 'ship.app'}

# What notebooks want beside these, in `from tweetnb.all import *`
_more = {
    'data_path': 'core', 'seed_everything': 'core', 'majority_score': 'metrics', 'tweet_metrics': 'metrics',
    'convert': 'data.datasets', 'TweetBlock': 'text.block', 'TweetDataLoaders': 'text.block',
    'TweetTokenizer': 'text.tokens',
    'embedding_matrix': 'text.vectors', 'read_vectors': 'text.vectors', 'count_parameters': 'models.recurrent',
    'create_model': 'models.recurrent', 'models': 'models.recurrent', 'class_weights': 'train.losses',
    'tweet_loss': 'train.losses', 'EvaluateEvery': 'train.callbacks', 'SaveHistory': 'train.callbacks',
    'TensorBoard': 'train.callbacks', 'WandB': 'train.callbacks', 'MLflow': 'train.callbacks',
    'Checkpoint': 'train.checkpoint', 'find_bs': 'train.finders', 'find_clip': 'train.finders',
    'find_lr': 'train.finders',
    'profile': 'train.timing', 'compare_hardware': 'train.timing', 'plot_hardware': 'train.timing',
    'pretrain': 'train.pretrain', 'RejectOption': 'evaluate.calibrate', 'Temperature': 'evaluate.calibrate',
    'with_neutral': 'evaluate.calibrate', 'label_errors': 'evaluate.mistakes', 'top_losses': 'evaluate.mistakes',
    'plot_confusion': 'evaluate.plots', 'plot_history': 'evaluate.plots', 'plot_comparison': 'evaluate.plots',
    'slices': 'evaluate.mistakes', 'checklist': 'evaluate.mistakes', 'mlflow_model': 'ship.bundle',
    'published_form': 'recipes', 'tune': 'evaluate.compare', 'audit_files': 'ship.shards',
    'convert_files': 'ship.shards', 'launch_on_ray': 'train.distributed'}

__all__ = ['__version__', *_names]


def __getattr__(name):
    "Import a name when it is first used"
    module = _names.get(name) or _more.get(name)
    if module is None:
        from difflib import get_close_matches
        near = ''.join(f'. Did you mean {o!r}?' for o in get_close_matches(name, [*_names, *_more], 1))
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}{near}')
    value = getattr(importlib.import_module(f'{__name__}.{module}'), name)
    if name not in globals(): globals()[name] = value        # `train` is there by now, as a chapter that can be called
    return globals()[name]


def __dir__(): return sorted(__all__)


class _Chapter(ModuleType):
    "The chapter `tweetnb.train`, which can be called: `tn.train(file)` is `tweetnb.auto.train(file)`"
    def __call__(self, *args, **kwargs): return importlib.import_module('tweetnb.auto').train(*args, **kwargs)

    @property
    def __signature__(self):
        import inspect
        return inspect.signature(importlib.import_module('tweetnb.auto').train)


class _Package(ModuleType):
    "This package, which makes its chapter `train` callable as soon as that is imported"
    def __setattr__(self, name, value):
        if name == 'train' and isinstance(value, ModuleType): value.__class__ = _Chapter
        super().__setattr__(name, value)

sys.modules[__name__].__class__ = _Package
