"""Bytes of one process of a training, by part and by moment.

What stays from step to step (N trained, M frozen parameters; w processes; ZeRO stage s; read from training/engine.py and
DeepSpeed 0.19's optimizers):

    weights             bf16 under DeepSpeed on CUDA, else float32; / w at s = 3, the frozen ones too
    float32 masters     4 N, / w from s = 1 on. DeepSpeed copies float32 weights as well from s = 1 on; plain torch has none
    optimizer states    AdamW 8 N; in 8 bits 2 N and two float32 scales per 256 parameters; / w from s = 1 on
    gradients           in the weights' type; whole at s = 0 and 1, / w from s = 2 on

What autograd keeps of one decoder layer with SDPA or FlashAttention, per token of a row (D width, K key width, F inner width of
the MLP, H heads; c = 2 or 4 bytes, the computing type):

    two RMSNorms        each: its input in float32 4 D; the normalised states c D, for the norm's weight; its output c D, which
                        the linear layers after it share
    attention           q and k after rotation, v and the output: c (2 D + 2 K); the row sums of the softmax 4 H
    MLP                 gate, silu(gate), up and their product: 4 c F

Adding a residual and rotating keep nothing (cosines are constants). float32: c = 4. With LoRA the norms' weights are frozen,
so the normalised states are not kept, but the r numbers between the two matrices of each of the seven linear layers are.
Autocast on a processor (float32 weights, bf16 products) keeps other things: residuals and norms in float32, a bfloat16 copy
of the input for each of q, k, v, gate and up by itself, attention on float32 copies (models/attention.py), and a bfloat16 copy
of every weight used in a product. Gradient checkpointing keeps a layer's input, and one layer's list at a time.

The largest of four moments is the peak: see `Memory.moments`.
"""

from dataclasses import dataclass

from countryreward.training.planning.options import PlanOptions
from countryreward.training.planning.shape import Shape

_DEEPSPEED_BUCKET = 500_000_000  # parameters; `reduce_bucket_size` of DeepSpeed, which the engine leaves alone
_ZERO3_LIVE = 1_000_000_000  # parameters; `stage3_max_live_parameters`
_ZERO3_GROUP = 1_000_000_000  # parameters; `sub_group_size`: what ZeRO-3 steps at a time
_BLOCK8, _BLOCK4 = 256, 64  # values per scale in bitsandbytes


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Who computes, and in which types."""

    world: int
    """Processes, one per GPU."""
    cuda: bool
    """Else a processor."""
    bf16_weights: bool
    """As `training.run.bf16_weights` decides."""
    autocast: bool
    """bfloat16 products of float32 weights."""

    @property
    def weight_bytes(self) -> int:
        """Of one parameter."""
        return 2 if self.bf16_weights else 4

    @property
    def compute_bytes(self) -> int:
        """Of one activation of a matrix product."""
        return 2 if self.bf16_weights or self.autocast else 4


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process. Transient parts are not all there at the same moment: `peak` is no sum of all."""

    weights: float
    """Trained weights and the language model's frozen ones."""
    tower: float
    """The frozen vision tower."""
    masters: float
    """float32 copies of trained weights."""
    optimizer: float
    """AdamW's two states."""
    gradients: float
    """Of one optimizer step."""
    activations: float
    """What autograd keeps of one forward pass, autocast's copies of weights included."""
    probe: float
    """Logits, and what the focus probe keeps."""
    working: float
    """Communication buckets, and the buffers of a backward pass in work."""
    step: float
    """What the optimizer step needs beside the gradients."""
    moments: dict[str, float]
    """`forward and backward`, `gradients complete`, `log line` (the ratio of gradient norms is a pass of its own), `optimizer
    step` -> all bytes there at that moment."""
    overhead: float
    """The device's own: CUDA context, communication library, fragmentation of the allocator (assumed: 1.5 GiB and 3 %)."""

    @property
    def peak(self) -> float:
        """Bytes at the worst moment, overhead included."""
        return max(self.moments.values()) + self.overhead

    @property
    def moment(self) -> str:
        """The worst moment."""
        return max(self.moments, key=lambda name: self.moments[name])


def layer_bytes(shape: Shape, setting: Setting, *, rank: int = 0) -> float:
    """What autograd keeps of one decoder layer per token of a row."""
    d, k, f, heads, c = shape.width, shape.kv_width, shape.ffn, shape.heads, setting.compute_bytes
    low = 7 * c * rank
    if setting.autocast:
        normed = 0 if rank else 4 * d
        norms = 2 * (4 * d + normed) + 2 * d * 5
        # FlashAttention and CUDA's SDPA take bfloat16; a processor's attention float32 copies
        attention = c * (2 * d + 2 * k) if setting.cuda else 4 * (2 * d + 2 * k) + 2 * d
    else:
        normed = 0 if rank else c * d
        norms = 2 * (4 * d + normed + c * d)
        attention = c * (2 * d + 2 * k)
    return norms + attention + 4 * heads + 4 * c * f + low


def residual_bytes(shape: Shape, setting: Setting) -> int:
    """One token's state between two layers: what gradient checkpointing keeps."""
    return shape.width * (2 if setting.bf16_weights else 4)


def edge_bytes(shape: Shape, options: PlanOptions, setting: Setting) -> float:
    """What autograd keeps of one pass outside the layers: merger, adapter, final norm, the rotation's cosines and sines."""
    pairs, c = options.loop.value("batch_size"), setting.compute_bytes
    rows = pairs * options.rows_per_pair
    patches, tokens = 2 * pairs * shape.patches(options.px), row_tokens(shape, options)
    # each picture once: input of the norm, its output (shared by the first product), that product, its GELU
    w = shape.tower_width
    merger = patches * w * ((4 + 2 + 2 + 2) if setting.autocast else 4 * c)
    # gamma of every visual token of every row, and the tokens it multiplies
    adapter = 2 * rows * 2 * shape.visual_tokens(options.px) * residual_bytes(shape, setting)
    final = rows * tokens * shape.width * (8 if setting.autocast else 4 + c)
    rotary = rows * tokens * 2 * residual_bytes(shape, setting) / shape.heads
    return merger + (adapter if options.reward.adapter else 0) + final + rotary


def probe_bytes(shape: Shape, options: PlanOptions, setting: Setting) -> tuple[float, float]:
    """The focus probe: (kept until the backward pass, held only until the forward pass returns)."""
    reward = options.reward
    if reward.focus_weight == 0 or reward.option("focus_measure") != "attention":
        return 0.0, 0.0
    layers = 1 if reward.option("focus_layer") == "final" else shape.layers - shape.layers // 2
    tokens = options.loop.value("batch_size") * options.rows_per_pair * row_tokens(shape, options)
    c = setting.compute_bytes
    kept = (2 if setting.autocast else 4) * shape.kv_width + 4 * shape.heads  # keys as multiplied, the softmax
    held = c * (shape.width + shape.kv_width)  # q and k before rotation, caught by hooks
    return layers * tokens * kept, layers * tokens * held


def row_tokens(shape: Shape, options: PlanOptions) -> int:
    """Tokens of one row: both pictures and the text."""
    return 2 * shape.visual_tokens(options.px) + options.text_tokens


def trained_parameters(shape: Shape, options: PlanOptions) -> tuple[int, int]:
    """(trained, frozen without the tower)."""
    small = sum(shape.groups.get(name, 0) for name in ("merger", "adapter", "classifier"))
    if options.lora.rank:
        return small + shape.lora(options.lora.rank), shape.groups["llm"]
    return small + shape.groups["llm"], 0


def memory(shape: Shape, options: PlanOptions, setting: Setting) -> Memory:
    """All bytes of one process. `options.text_tokens` must be set."""
    loop, lora, world = options.loop, options.lora, setting.world
    trained, frozen = trained_parameters(shape, options)
    deepspeed, stage = loop.engine == "deepspeed", loop.zero_stage if loop.engine == "deepspeed" else 0
    b = setting.weight_bytes
    states_share = world if stage >= 1 else 1
    gradients_share = world if stage >= 2 else 1
    weights_share = world if stage == 3 else 1

    quantized = shape.layers * shape.layer_linear if lora.base == "nf4" else 0
    nf4 = quantized * (0.5 + 1 / _BLOCK4 + 4 / (_BLOCK4 * _BLOCK8))  # double quantization: scales in 8 bits
    weights = (b * (trained + frozen - quantized) + nf4) / weights_share
    tower = b * shape.groups["tower"] / weights_share
    masters = 4 * trained / states_share if deepspeed and (setting.bf16_weights or stage >= 1) else 0.0
    per_state = 8.0 if loop.optimizer == "adamw" else 2 + 8 / _BLOCK8
    optimizer = per_state * trained / states_share
    gradients = b * trained / gradients_share

    kept, backward = _pass(shape, options, setting)
    probe_kept, probe_held = probe_bytes(shape, options, setting)
    casts = _casts(shape, options, setting)
    inputs = _inputs(shape, options)
    largest = b * min(shape.largest, trained)
    buckets = _buckets(trained, b, options, setting, stage)
    step = _step(trained, largest, options, setting, stage)

    fixed = weights + tower + masters + optimizer + inputs
    before = gradients if loop.value("accumulation") > 1 else 0.0
    lasting = _lasting_casts(shape, options, setting)
    activations = kept + probe_kept
    ratio = trained * b + backward if options.reward.focus_weight > 0 and stage < 3 else 0.0
    moments = {
        "forward and backward": fixed + before + activations + max(probe_held + casts, lasting + backward + buckets),
        "gradients complete": fixed + gradients + edge_bytes(shape, options, setting) + lasting + buckets + largest,
        "log line": fixed + gradients + activations + casts + ratio if ratio else 0.0,
        "optimizer step": fixed + gradients + step,
    }
    return Memory(
        weights=weights,
        tower=tower,
        masters=masters,
        optimizer=optimizer,
        gradients=gradients,
        activations=kept + casts,
        probe=probe_kept + probe_held,
        working=backward + buckets + inputs,
        step=step,
        moments=moments,
        overhead=1.5 * 2**30 + 0.03 * max(moments.values()) if setting.cuda else 0.0,
    )


def kept_bytes(shape: Shape, options: PlanOptions, setting: Setting) -> float:
    """All that autograd keeps of one forward pass, copies of weights included: what saved-tensor hooks would count."""
    kept, _ = _pass(shape, options, setting)
    return kept + probe_bytes(shape, options, setting)[0] + _lasting_casts(shape, options, setting)


def _pass(shape: Shape, options: PlanOptions, setting: Setting) -> tuple[float, float]:
    """(kept by the layers and around them, buffers of the backward pass in work)."""
    tokens = options.loop.value("batch_size") * options.rows_per_pair * row_tokens(shape, options)
    layer = tokens * layer_bytes(shape, setting, rank=options.lora.rank)
    edge = edge_bytes(shape, options, setting)
    c = setting.compute_bytes
    # gradients of the MLP's product, gate and up, of the state and of a norm in float32
    backward = tokens * (3 * c * shape.ffn + 2 * residual_bytes(shape, setting) + 8 * shape.width)
    if options.lora.base == "nf4":
        backward += 2 * max(inputs * outputs for inputs, outputs in shape.linear)  # one matrix in full
    if options.loop.gradient_checkpointing:
        return shape.layers * tokens * residual_bytes(shape, setting) + edge, backward + layer
    return shape.layers * layer + edge, backward


def _casts(shape: Shape, options: PlanOptions, setting: Setting) -> float:
    """Autocast's bfloat16 copies of the weights it multiplies: all are there until the forward pass is over."""
    in_layers = shape.layers * shape.layer_linear + shape.lora(options.lora.rank)
    return _edge_casts(shape, setting) + (2.0 * in_layers if setting.autocast else 0.0)


def _lasting_casts(shape: Shape, options: PlanOptions, setting: Setting) -> float:
    """Those that autograd keeps: with gradient checkpointing only those outside the layers."""
    return _edge_casts(shape, setting) if options.loop.gradient_checkpointing else _casts(shape, options, setting)


def _edge_casts(shape: Shape, setting: Setting) -> float:
    return 2.0 * (shape.groups["merger"] + shape.groups.get("adapter", 0)) if setting.autocast else 0.0


def _inputs(shape: Shape, options: PlanOptions) -> float:
    """A batch in float32: stored features, or patches of 3 colours x 2 frames x 14 x 14 and the tower's output."""
    images = 2 * options.loop.value("batch_size") * shape.patches(options.px)
    values = shape.tower_width if options.features == "stored" else 3 * 2 * shape.patch**2
    return 4.0 * images * values


def _buckets(trained: int, b: int, options: PlanOptions, setting: Setting, stage: int) -> float:
    """Communication buffers of a backward pass."""
    if options.loop.engine == "torch":
        return b * trained if setting.world > 1 else 0.0  # DDP's buckets are a copy of all gradients
    if stage == 3:
        return b * min(_DEEPSPEED_BUCKET, trained) + b * min(_ZERO3_LIVE, trained)
    if stage >= 1:
        return b * min(_DEEPSPEED_BUCKET, trained)
    return b * min(_DEEPSPEED_BUCKET, trained) if setting.world > 1 else 0.0


def _step(trained: int, largest: float, options: PlanOptions, setting: Setting, stage: int) -> float:
    """What the optimizer step needs beside the gradients.

    torch's AdamW makes the root of the second state: at once for all parameters of a group on CUDA (foreach), one parameter at
    a time on a processor (root and quotient). DeepSpeed's groups are one flat parameter, and it makes the gradient float32.
    """
    flat = options.loop.engine == "deepspeed" and (setting.bf16_weights or stage >= 1)
    roots = 0 if options.loop.optimizer == "adamw8bit" else 4 if setting.cuda else 8
    if not flat:
        return roots * (trained if setting.cuda else largest / setting.weight_bytes)
    mine = trained / (setting.world if stage >= 1 else 1)
    if stage == 3:
        mine = min(mine, _ZERO3_GROUP)
        return (4 + roots) * mine
    if not setting.bf16_weights:
        return roots * mine  # the flat gradient takes the place of the pieces
    if stage == 0:
        return 8.0 * mine  # float32 gradients and their flat copy
    return max(6.0, 2.0 + roots) * mine  # flat copy and float32 one; or float32 one and roots, less the pieces
