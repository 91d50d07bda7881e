from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_SYSTEM: _ClassVar[Role]
    ROLE_USER: _ClassVar[Role]
    ROLE_ASSISTANT: _ClassVar[Role]

class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_UNSPECIFIED: _ClassVar[Order]
    ORDER_AB: _ClassVar[Order]
    ORDER_BA: _ClassVar[Order]

class PrincipleSelection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRINCIPLE_SELECTION_UNSPECIFIED: _ClassVar[PrincipleSelection]
    PRINCIPLE_SELECTION_ALL: _ClassVar[PrincipleSelection]
    PRINCIPLE_SELECTION_SAMPLE: _ClassVar[PrincipleSelection]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_BULK: _ClassVar[Priority]

class CacheMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_MODE_UNSPECIFIED: _ClassVar[CacheMode]
    CACHE_MODE_USE: _ClassVar[CacheMode]
    CACHE_MODE_BYPASS: _ClassVar[CacheMode]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_A: _ClassVar[Verdict]
    VERDICT_B: _ClassVar[Verdict]
    VERDICT_TIE: _ClassVar[Verdict]
    VERDICT_ABSTAIN: _ClassVar[Verdict]

class AbstentionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ABSTENTION_REASON_UNSPECIFIED: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_TOO_LONG: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_EMPTY_RESPONSE: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_LOW_LABEL_MASS: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_NO_PRINCIPLE_APPLIES: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_ENGINE_FAILED: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_CANCELLED: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_UNDECIDED: _ClassVar[AbstentionReason]
    ABSTENTION_REASON_REFUSED: _ClassVar[AbstentionReason]

class ServerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SERVER_STATE_UNSPECIFIED: _ClassVar[ServerState]
    SERVER_STATE_LOADING: _ClassVar[ServerState]
    SERVER_STATE_SERVING: _ClassVar[ServerState]
    SERVER_STATE_DRAINING: _ClassVar[ServerState]
    SERVER_STATE_FAILED: _ClassVar[ServerState]
ROLE_UNSPECIFIED: Role
ROLE_SYSTEM: Role
ROLE_USER: Role
ROLE_ASSISTANT: Role
ORDER_UNSPECIFIED: Order
ORDER_AB: Order
ORDER_BA: Order
PRINCIPLE_SELECTION_UNSPECIFIED: PrincipleSelection
PRINCIPLE_SELECTION_ALL: PrincipleSelection
PRINCIPLE_SELECTION_SAMPLE: PrincipleSelection
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_BULK: Priority
CACHE_MODE_UNSPECIFIED: CacheMode
CACHE_MODE_USE: CacheMode
CACHE_MODE_BYPASS: CacheMode
VERDICT_UNSPECIFIED: Verdict
VERDICT_A: Verdict
VERDICT_B: Verdict
VERDICT_TIE: Verdict
VERDICT_ABSTAIN: Verdict
ABSTENTION_REASON_UNSPECIFIED: AbstentionReason
ABSTENTION_REASON_TOO_LONG: AbstentionReason
ABSTENTION_REASON_EMPTY_RESPONSE: AbstentionReason
ABSTENTION_REASON_LOW_LABEL_MASS: AbstentionReason
ABSTENTION_REASON_NO_PRINCIPLE_APPLIES: AbstentionReason
ABSTENTION_REASON_ENGINE_FAILED: AbstentionReason
ABSTENTION_REASON_CANCELLED: AbstentionReason
ABSTENTION_REASON_UNDECIDED: AbstentionReason
ABSTENTION_REASON_REFUSED: AbstentionReason
SERVER_STATE_UNSPECIFIED: ServerState
SERVER_STATE_LOADING: ServerState
SERVER_STATE_SERVING: ServerState
SERVER_STATE_DRAINING: ServerState
SERVER_STATE_FAILED: ServerState

class Message(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: Role
    content: str
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., content: _Optional[str] = ...) -> None: ...

class ConstitutionRef(_message.Message):
    __slots__ = ("name", "sha256", "yaml")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    YAML_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    yaml: str
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., yaml: _Optional[str] = ...) -> None: ...

class JudgeOptions(_message.Message):
    __slots__ = ("orders", "principles", "sample_size", "seed", "tie_margin", "min_label_mass", "priority", "max_straddle", "max_rationale_tokens", "rationale_samples", "protocol", "raw", "cache")
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIE_MARGIN_FIELD_NUMBER: _ClassVar[int]
    MIN_LABEL_MASS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_STRADDLE_FIELD_NUMBER: _ClassVar[int]
    MAX_RATIONALE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedScalarFieldContainer[Order]
    principles: PrincipleSelection
    sample_size: int
    seed: int
    tie_margin: float
    min_label_mass: float
    priority: Priority
    max_straddle: float
    max_rationale_tokens: int
    rationale_samples: int
    protocol: str
    raw: bool
    cache: CacheMode
    def __init__(self, orders: _Optional[_Iterable[_Union[Order, str]]] = ..., principles: _Optional[_Union[PrincipleSelection, str]] = ..., sample_size: _Optional[int] = ..., seed: _Optional[int] = ..., tie_margin: _Optional[float] = ..., min_label_mass: _Optional[float] = ..., priority: _Optional[_Union[Priority, str]] = ..., max_straddle: _Optional[float] = ..., max_rationale_tokens: _Optional[int] = ..., rationale_samples: _Optional[int] = ..., protocol: _Optional[str] = ..., raw: bool = ..., cache: _Optional[_Union[CacheMode, str]] = ...) -> None: ...

class WritingOptions(_message.Message):
    __slots__ = ("principle_id", "max_tokens", "temperature", "seed", "priority", "cache")
    PRINCIPLE_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    principle_id: str
    max_tokens: int
    temperature: float
    seed: int
    priority: Priority
    cache: CacheMode
    def __init__(self, principle_id: _Optional[str] = ..., max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., seed: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ..., cache: _Optional[_Union[CacheMode, str]] = ...) -> None: ...

class Abstention(_message.Message):
    __slots__ = ("reason", "detail")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: AbstentionReason
    detail: str
    def __init__(self, reason: _Optional[_Union[AbstentionReason, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class Read(_message.Message):
    __slots__ = ("order", "logprob_first", "logprob_second", "prob_first", "label_mass", "prompt_tokens", "cached_tokens", "prompt_sha256", "stored", "rationale")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIRST_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_SECOND_FIELD_NUMBER: _ClassVar[int]
    PROB_FIRST_FIELD_NUMBER: _ClassVar[int]
    LABEL_MASS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SHA256_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    order: Order
    logprob_first: float
    logprob_second: float
    prob_first: float
    label_mass: float
    prompt_tokens: int
    cached_tokens: int
    prompt_sha256: str
    stored: bool
    rationale: str
    def __init__(self, order: _Optional[_Union[Order, str]] = ..., logprob_first: _Optional[float] = ..., logprob_second: _Optional[float] = ..., prob_first: _Optional[float] = ..., label_mass: _Optional[float] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., prompt_sha256: _Optional[str] = ..., stored: bool = ..., rationale: _Optional[str] = ...) -> None: ...

class PrincipleVote(_message.Message):
    __slots__ = ("principle_id", "trait", "weight", "prob_a", "order_gap", "reads", "void_reads")
    PRINCIPLE_ID_FIELD_NUMBER: _ClassVar[int]
    TRAIT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PROB_A_FIELD_NUMBER: _ClassVar[int]
    ORDER_GAP_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    VOID_READS_FIELD_NUMBER: _ClassVar[int]
    principle_id: str
    trait: str
    weight: float
    prob_a: float
    order_gap: float
    reads: _containers.RepeatedCompositeFieldContainer[Read]
    void_reads: int
    def __init__(self, principle_id: _Optional[str] = ..., trait: _Optional[str] = ..., weight: _Optional[float] = ..., prob_a: _Optional[float] = ..., order_gap: _Optional[float] = ..., reads: _Optional[_Iterable[_Union[Read, _Mapping]]] = ..., void_reads: _Optional[int] = ...) -> None: ...

class ModelIdentity(_message.Message):
    __slots__ = ("name", "weights_sha256", "tokenizer_sha256", "dtype", "engine")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SHA256_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    name: str
    weights_sha256: str
    tokenizer_sha256: str
    dtype: str
    engine: str
    def __init__(self, name: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., tokenizer_sha256: _Optional[str] = ..., dtype: _Optional[str] = ..., engine: _Optional[str] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("constitution", "model", "template_version", "principle_ids", "orders", "seed", "protocol", "calibration", "reader")
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    READER_FIELD_NUMBER: _ClassVar[int]
    constitution: ConstitutionSummary
    model: ModelIdentity
    template_version: str
    principle_ids: _containers.RepeatedScalarFieldContainer[str]
    orders: _containers.RepeatedScalarFieldContainer[Order]
    seed: int
    protocol: str
    calibration: str
    reader: str
    def __init__(self, constitution: _Optional[_Union[ConstitutionSummary, _Mapping]] = ..., model: _Optional[_Union[ModelIdentity, _Mapping]] = ..., template_version: _Optional[str] = ..., principle_ids: _Optional[_Iterable[str]] = ..., orders: _Optional[_Iterable[_Union[Order, str]]] = ..., seed: _Optional[int] = ..., protocol: _Optional[str] = ..., calibration: _Optional[str] = ..., reader: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "cached_tokens", "output_tokens", "reads", "stored_reads")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    STORED_READS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    reads: int
    stored_reads: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., reads: _Optional[int] = ..., stored_reads: _Optional[int] = ...) -> None: ...

class Judgment(_message.Message):
    __slots__ = ("verdict", "prob_a", "trait_probs", "votes", "position_consistent", "order_gap", "provenance", "usage", "elapsed_seconds", "abstention", "raw_prob_a", "spread", "cache_hit")
    class TraitProbsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    PROB_A_FIELD_NUMBER: _ClassVar[int]
    TRAIT_PROBS_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    POSITION_CONSISTENT_FIELD_NUMBER: _ClassVar[int]
    ORDER_GAP_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ABSTENTION_FIELD_NUMBER: _ClassVar[int]
    RAW_PROB_A_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    CACHE_HIT_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    prob_a: float
    trait_probs: _containers.ScalarMap[str, float]
    votes: _containers.RepeatedCompositeFieldContainer[PrincipleVote]
    position_consistent: bool
    order_gap: float
    provenance: Provenance
    usage: Usage
    elapsed_seconds: float
    abstention: Abstention
    raw_prob_a: float
    spread: float
    cache_hit: bool
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., prob_a: _Optional[float] = ..., trait_probs: _Optional[_Mapping[str, float]] = ..., votes: _Optional[_Iterable[_Union[PrincipleVote, _Mapping]]] = ..., position_consistent: bool = ..., order_gap: _Optional[float] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., elapsed_seconds: _Optional[float] = ..., abstention: _Optional[_Union[Abstention, _Mapping]] = ..., raw_prob_a: _Optional[float] = ..., spread: _Optional[float] = ..., cache_hit: bool = ...) -> None: ...

class RankedCandidate(_message.Message):
    __slots__ = ("index", "rank", "strength", "standard_error")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    index: int
    rank: int
    strength: float
    standard_error: float
    def __init__(self, index: _Optional[int] = ..., rank: _Optional[int] = ..., strength: _Optional[float] = ..., standard_error: _Optional[float] = ...) -> None: ...

class RankedPair(_message.Message):
    __slots__ = ("index_a", "index_b", "judgment")
    INDEX_A_FIELD_NUMBER: _ClassVar[int]
    INDEX_B_FIELD_NUMBER: _ClassVar[int]
    JUDGMENT_FIELD_NUMBER: _ClassVar[int]
    index_a: int
    index_b: int
    judgment: Judgment
    def __init__(self, index_a: _Optional[int] = ..., index_b: _Optional[int] = ..., judgment: _Optional[_Union[Judgment, _Mapping]] = ...) -> None: ...

class Ranking(_message.Message):
    __slots__ = ("candidates", "pairs", "usage", "elapsed_seconds")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[RankedCandidate]
    pairs: _containers.RepeatedCompositeFieldContainer[RankedPair]
    usage: Usage
    elapsed_seconds: float
    def __init__(self, candidates: _Optional[_Iterable[_Union[RankedCandidate, _Mapping]]] = ..., pairs: _Optional[_Iterable[_Union[RankedPair, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., elapsed_seconds: _Optional[float] = ...) -> None: ...

class PrincipleScore(_message.Message):
    __slots__ = ("principle_id", "trait", "weight", "score", "rating_probs", "label_mass", "prompt_sha256", "stored")
    PRINCIPLE_ID_FIELD_NUMBER: _ClassVar[int]
    TRAIT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RATING_PROBS_FIELD_NUMBER: _ClassVar[int]
    LABEL_MASS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SHA256_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    principle_id: str
    trait: str
    weight: float
    score: float
    rating_probs: _containers.RepeatedScalarFieldContainer[float]
    label_mass: float
    prompt_sha256: str
    stored: bool
    def __init__(self, principle_id: _Optional[str] = ..., trait: _Optional[str] = ..., weight: _Optional[float] = ..., score: _Optional[float] = ..., rating_probs: _Optional[_Iterable[float]] = ..., label_mass: _Optional[float] = ..., prompt_sha256: _Optional[str] = ..., stored: bool = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("score", "trait_scores", "principle_scores", "provenance", "usage", "elapsed_seconds", "abstention", "cache_hit")
    class TraitScoresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TRAIT_SCORES_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLE_SCORES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ABSTENTION_FIELD_NUMBER: _ClassVar[int]
    CACHE_HIT_FIELD_NUMBER: _ClassVar[int]
    score: float
    trait_scores: _containers.ScalarMap[str, float]
    principle_scores: _containers.RepeatedCompositeFieldContainer[PrincipleScore]
    provenance: Provenance
    usage: Usage
    elapsed_seconds: float
    abstention: Abstention
    cache_hit: bool
    def __init__(self, score: _Optional[float] = ..., trait_scores: _Optional[_Mapping[str, float]] = ..., principle_scores: _Optional[_Iterable[_Union[PrincipleScore, _Mapping]]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., elapsed_seconds: _Optional[float] = ..., abstention: _Optional[_Union[Abstention, _Mapping]] = ..., cache_hit: bool = ...) -> None: ...

class Writing(_message.Message):
    __slots__ = ("text", "complete", "principle_id", "provenance", "usage", "elapsed_seconds", "abstention")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLE_ID_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ABSTENTION_FIELD_NUMBER: _ClassVar[int]
    text: str
    complete: bool
    principle_id: str
    provenance: Provenance
    usage: Usage
    elapsed_seconds: float
    abstention: Abstention
    def __init__(self, text: _Optional[str] = ..., complete: bool = ..., principle_id: _Optional[str] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., elapsed_seconds: _Optional[float] = ..., abstention: _Optional[_Union[Abstention, _Mapping]] = ...) -> None: ...

class PromptPreview(_message.Message):
    __slots__ = ("principle_id", "order", "text", "prompt_tokens", "labels", "prompt_sha256")
    PRINCIPLE_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SHA256_FIELD_NUMBER: _ClassVar[int]
    principle_id: str
    order: Order
    text: str
    prompt_tokens: int
    labels: _containers.RepeatedScalarFieldContainer[str]
    prompt_sha256: str
    def __init__(self, principle_id: _Optional[str] = ..., order: _Optional[_Union[Order, str]] = ..., text: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., labels: _Optional[_Iterable[str]] = ..., prompt_sha256: _Optional[str] = ...) -> None: ...

class ComparePairRequest(_message.Message):
    __slots__ = ("constitution", "conversation", "response_a", "response_b", "options", "validate_only", "request_id")
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_A_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_B_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    constitution: ConstitutionRef
    conversation: _containers.RepeatedCompositeFieldContainer[Message]
    response_a: str
    response_b: str
    options: JudgeOptions
    validate_only: bool
    request_id: str
    def __init__(self, constitution: _Optional[_Union[ConstitutionRef, _Mapping]] = ..., conversation: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., response_a: _Optional[str] = ..., response_b: _Optional[str] = ..., options: _Optional[_Union[JudgeOptions, _Mapping]] = ..., validate_only: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class ComparePairResponse(_message.Message):
    __slots__ = ("judgment",)
    JUDGMENT_FIELD_NUMBER: _ClassVar[int]
    judgment: Judgment
    def __init__(self, judgment: _Optional[_Union[Judgment, _Mapping]] = ...) -> None: ...

class RankCandidatesRequest(_message.Message):
    __slots__ = ("constitution", "conversation", "candidates", "options", "validate_only", "request_id")
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    constitution: ConstitutionRef
    conversation: _containers.RepeatedCompositeFieldContainer[Message]
    candidates: _containers.RepeatedScalarFieldContainer[str]
    options: JudgeOptions
    validate_only: bool
    request_id: str
    def __init__(self, constitution: _Optional[_Union[ConstitutionRef, _Mapping]] = ..., conversation: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., candidates: _Optional[_Iterable[str]] = ..., options: _Optional[_Union[JudgeOptions, _Mapping]] = ..., validate_only: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class RankCandidatesResponse(_message.Message):
    __slots__ = ("ranking",)
    RANKING_FIELD_NUMBER: _ClassVar[int]
    ranking: Ranking
    def __init__(self, ranking: _Optional[_Union[Ranking, _Mapping]] = ...) -> None: ...

class ScoreCandidateRequest(_message.Message):
    __slots__ = ("constitution", "conversation", "response", "options", "validate_only", "request_id")
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    constitution: ConstitutionRef
    conversation: _containers.RepeatedCompositeFieldContainer[Message]
    response: str
    options: JudgeOptions
    validate_only: bool
    request_id: str
    def __init__(self, constitution: _Optional[_Union[ConstitutionRef, _Mapping]] = ..., conversation: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., response: _Optional[str] = ..., options: _Optional[_Union[JudgeOptions, _Mapping]] = ..., validate_only: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class ScoreCandidateResponse(_message.Message):
    __slots__ = ("score",)
    SCORE_FIELD_NUMBER: _ClassVar[int]
    score: Score
    def __init__(self, score: _Optional[_Union[Score, _Mapping]] = ...) -> None: ...

class CritiqueCandidateRequest(_message.Message):
    __slots__ = ("constitution", "conversation", "response", "options", "validate_only", "request_id")
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    constitution: ConstitutionRef
    conversation: _containers.RepeatedCompositeFieldContainer[Message]
    response: str
    options: WritingOptions
    validate_only: bool
    request_id: str
    def __init__(self, constitution: _Optional[_Union[ConstitutionRef, _Mapping]] = ..., conversation: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., response: _Optional[str] = ..., options: _Optional[_Union[WritingOptions, _Mapping]] = ..., validate_only: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class CritiqueCandidateResponse(_message.Message):
    __slots__ = ("critique",)
    CRITIQUE_FIELD_NUMBER: _ClassVar[int]
    critique: Writing
    def __init__(self, critique: _Optional[_Union[Writing, _Mapping]] = ...) -> None: ...

class ReviseCandidateRequest(_message.Message):
    __slots__ = ("constitution", "conversation", "response", "critique", "options", "validate_only", "request_id")
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    CRITIQUE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    constitution: ConstitutionRef
    conversation: _containers.RepeatedCompositeFieldContainer[Message]
    response: str
    critique: str
    options: WritingOptions
    validate_only: bool
    request_id: str
    def __init__(self, constitution: _Optional[_Union[ConstitutionRef, _Mapping]] = ..., conversation: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., response: _Optional[str] = ..., critique: _Optional[str] = ..., options: _Optional[_Union[WritingOptions, _Mapping]] = ..., validate_only: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class ReviseCandidateResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: Writing
    def __init__(self, revision: _Optional[_Union[Writing, _Mapping]] = ...) -> None: ...

class StreamJudgmentsRequest(_message.Message):
    __slots__ = ("id", "comparison")
    ID_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    id: str
    comparison: ComparePairRequest
    def __init__(self, id: _Optional[str] = ..., comparison: _Optional[_Union[ComparePairRequest, _Mapping]] = ...) -> None: ...

class StreamJudgmentsResponse(_message.Message):
    __slots__ = ("id", "judgment", "error", "credits", "progress")
    ID_FIELD_NUMBER: _ClassVar[int]
    JUDGMENT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    id: str
    judgment: Judgment
    error: _status_pb2.Status
    credits: int
    progress: StreamProgress
    def __init__(self, id: _Optional[str] = ..., judgment: _Optional[_Union[Judgment, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., credits: _Optional[int] = ..., progress: _Optional[_Union[StreamProgress, _Mapping]] = ...) -> None: ...

class StreamProgress(_message.Message):
    __slots__ = ("received", "answered")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    received: int
    answered: int
    def __init__(self, received: _Optional[int] = ..., answered: _Optional[int] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("state", "version", "model", "template_version", "limits", "capabilities", "constitutions", "protocols", "inline_constitutions", "calibrations")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    CONSTITUTIONS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOLS_FIELD_NUMBER: _ClassVar[int]
    INLINE_CONSTITUTIONS_FIELD_NUMBER: _ClassVar[int]
    CALIBRATIONS_FIELD_NUMBER: _ClassVar[int]
    state: ServerState
    version: str
    model: ModelIdentity
    template_version: str
    limits: ServerLimits
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    constitutions: _containers.RepeatedCompositeFieldContainer[ConstitutionSummary]
    protocols: _containers.RepeatedScalarFieldContainer[str]
    inline_constitutions: bool
    calibrations: _containers.RepeatedCompositeFieldContainer[FittedCalibration]
    def __init__(self, state: _Optional[_Union[ServerState, str]] = ..., version: _Optional[str] = ..., model: _Optional[_Union[ModelIdentity, _Mapping]] = ..., template_version: _Optional[str] = ..., limits: _Optional[_Union[ServerLimits, _Mapping]] = ..., capabilities: _Optional[_Iterable[str]] = ..., constitutions: _Optional[_Iterable[_Union[ConstitutionSummary, _Mapping]]] = ..., protocols: _Optional[_Iterable[str]] = ..., inline_constitutions: bool = ..., calibrations: _Optional[_Iterable[_Union[FittedCalibration, _Mapping]]] = ...) -> None: ...

class FittedCalibration(_message.Message):
    __slots__ = ("constitution_sha256", "protocol", "sha256")
    CONSTITUTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    constitution_sha256: str
    protocol: str
    sha256: str
    def __init__(self, constitution_sha256: _Optional[str] = ..., protocol: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class ServerLimits(_message.Message):
    __slots__ = ("max_context_tokens", "max_message_bytes", "max_candidates", "max_stream_in_flight", "max_concurrent_rpcs", "max_rationale_tokens", "max_write_tokens")
    MAX_CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_RPCS_FIELD_NUMBER: _ClassVar[int]
    MAX_RATIONALE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_WRITE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    max_context_tokens: int
    max_message_bytes: int
    max_candidates: int
    max_stream_in_flight: int
    max_concurrent_rpcs: int
    max_rationale_tokens: int
    max_write_tokens: int
    def __init__(self, max_context_tokens: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_candidates: _Optional[int] = ..., max_stream_in_flight: _Optional[int] = ..., max_concurrent_rpcs: _Optional[int] = ..., max_rationale_tokens: _Optional[int] = ..., max_write_tokens: _Optional[int] = ...) -> None: ...

class ConstitutionSummary(_message.Message):
    __slots__ = ("name", "version", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    sha256: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class ListConstitutionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListConstitutionsResponse(_message.Message):
    __slots__ = ("constitutions",)
    CONSTITUTIONS_FIELD_NUMBER: _ClassVar[int]
    constitutions: _containers.RepeatedCompositeFieldContainer[ConstitutionSummary]
    def __init__(self, constitutions: _Optional[_Iterable[_Union[ConstitutionSummary, _Mapping]]] = ...) -> None: ...

class GetConstitutionRequest(_message.Message):
    __slots__ = ("constitution",)
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    constitution: ConstitutionRef
    def __init__(self, constitution: _Optional[_Union[ConstitutionRef, _Mapping]] = ...) -> None: ...

class GetConstitutionResponse(_message.Message):
    __slots__ = ("constitution", "sha256")
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    constitution: Constitution
    sha256: str
    def __init__(self, constitution: _Optional[_Union[Constitution, _Mapping]] = ..., sha256: _Optional[str] = ...) -> None: ...

class ValidateConstitutionRequest(_message.Message):
    __slots__ = ("yaml", "source")
    YAML_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    yaml: str
    source: str
    def __init__(self, yaml: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class ValidateConstitutionResponse(_message.Message):
    __slots__ = ("diagnostics", "constitution")
    DIAGNOSTICS_FIELD_NUMBER: _ClassVar[int]
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    diagnostics: _containers.RepeatedCompositeFieldContainer[Diagnostic]
    constitution: ConstitutionSummary
    def __init__(self, diagnostics: _Optional[_Iterable[_Union[Diagnostic, _Mapping]]] = ..., constitution: _Optional[_Union[ConstitutionSummary, _Mapping]] = ...) -> None: ...

class PreviewPromptRequest(_message.Message):
    __slots__ = ("constitution", "conversation", "response_a", "response_b", "options", "validate_only", "request_id")
    CONSTITUTION_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_A_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_B_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    constitution: ConstitutionRef
    conversation: _containers.RepeatedCompositeFieldContainer[Message]
    response_a: str
    response_b: str
    options: JudgeOptions
    validate_only: bool
    request_id: str
    def __init__(self, constitution: _Optional[_Union[ConstitutionRef, _Mapping]] = ..., conversation: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., response_a: _Optional[str] = ..., response_b: _Optional[str] = ..., options: _Optional[_Union[JudgeOptions, _Mapping]] = ..., validate_only: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class PreviewPromptResponse(_message.Message):
    __slots__ = ("prompts",)
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedCompositeFieldContainer[PromptPreview]
    def __init__(self, prompts: _Optional[_Iterable[_Union[PromptPreview, _Mapping]]] = ...) -> None: ...

class Diagnostic(_message.Message):
    __slots__ = ("source", "line", "column", "message", "remedy")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    source: str
    line: int
    column: int
    message: str
    remedy: str
    def __init__(self, source: _Optional[str] = ..., line: _Optional[int] = ..., column: _Optional[int] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class Constitution(_message.Message):
    __slots__ = ("name", "version", "description", "traits", "principles")
    class TraitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Trait
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Trait, _Mapping]] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TRAITS_FIELD_NUMBER: _ClassVar[int]
    PRINCIPLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    description: str
    traits: _containers.MessageMap[str, Trait]
    principles: _containers.RepeatedCompositeFieldContainer[Principle]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., description: _Optional[str] = ..., traits: _Optional[_Mapping[str, Trait]] = ..., principles: _Optional[_Iterable[_Union[Principle, _Mapping]]] = ...) -> None: ...

class Trait(_message.Message):
    __slots__ = ("weight", "description")
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    weight: float
    description: str
    def __init__(self, weight: _Optional[float] = ..., description: _Optional[str] = ...) -> None: ...

class Principle(_message.Message):
    __slots__ = ("id", "trait", "weight", "compare", "critique", "revise", "scope", "examples")
    ID_FIELD_NUMBER: _ClassVar[int]
    TRAIT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    CRITIQUE_FIELD_NUMBER: _ClassVar[int]
    REVISE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    id: str
    trait: str
    weight: float
    compare: str
    critique: str
    revise: str
    scope: Scope
    examples: _containers.RepeatedCompositeFieldContainer[Example]
    def __init__(self, id: _Optional[str] = ..., trait: _Optional[str] = ..., weight: _Optional[float] = ..., compare: _Optional[str] = ..., critique: _Optional[str] = ..., revise: _Optional[str] = ..., scope: _Optional[_Union[Scope, _Mapping]] = ..., examples: _Optional[_Iterable[_Union[Example, _Mapping]]] = ...) -> None: ...

class Scope(_message.Message):
    __slots__ = ("mentions", "excludes")
    MENTIONS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDES_FIELD_NUMBER: _ClassVar[int]
    mentions: _containers.RepeatedScalarFieldContainer[str]
    excludes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, mentions: _Optional[_Iterable[str]] = ..., excludes: _Optional[_Iterable[str]] = ...) -> None: ...

class Example(_message.Message):
    __slots__ = ("prompt", "conversation", "response_a", "response_b", "preferred", "note")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_A_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_B_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    conversation: _containers.RepeatedCompositeFieldContainer[Message]
    response_a: str
    response_b: str
    preferred: Verdict
    note: str
    def __init__(self, prompt: _Optional[str] = ..., conversation: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., response_a: _Optional[str] = ..., response_b: _Optional[str] = ..., preferred: _Optional[_Union[Verdict, str]] = ..., note: _Optional[str] = ...) -> None: ...
