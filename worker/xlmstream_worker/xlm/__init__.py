"""The XLM library: configuration, tokenizer, models and checkpoints. Usable alone; knows nothing of serving."""

from .cache import KVCache as KVCache
from .classification import XLMForMultipleChoice as XLMForMultipleChoice
from .classification import XLMForSequenceClassification as XLMForSequenceClassification
from .classification import XLMForTokenClassification as XLMForTokenClassification
from .config import XLMConfig as XLMConfig
from .errors import CheckpointError as CheckpointError
from .errors import ConfigError as ConfigError
from .errors import XLMError as XLMError
from .language_model import XLMWithLMHeadModel as XLMWithLMHeadModel
from .model import XLMModel as XLMModel
from .outputs import XLMForQuestionAnsweringOutput as XLMForQuestionAnsweringOutput
from .packed import PackedBatch as PackedBatch
from .packed import PackedStates as PackedStates
from .packed import encode_packed as encode_packed
from .packed import pack as pack
from .question_answering import XLMForQuestionAnswering as XLMForQuestionAnswering
from .question_answering import XLMForQuestionAnsweringSimple as XLMForQuestionAnsweringSimple
from .tokenizer import XLMTokenizer as XLMTokenizer
