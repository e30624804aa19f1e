"""The network of scGPT: a gene's embedding plus its value's, a post-norm encoder, two decoders.

There are no positions: a cell is a set of genes, with ``<cls>`` among them. Parameters are
named as in the published files, but for attention, whose names vary there
(:func:`canonical_keys`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253  (this module is imported only where a network is needed)
from torch import nn  # noqa: TID253

from scfm_lab.errors import ModelError
from scfm_lab.models.layers import PackedEncoder, embedding
from scfm_lab.models.pinned import owned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

LARGEST_VALUE = 512
"""Values above are cut, as in the reference."""
STYLES = ("continuous", "category", "scaling")

#: Parts of training runs and of fine-tuned files that no embedding reads: known, and left aside.
_ASIDE = (
    "flag_encoder.",
    "batch_encoder.",
    "grad_reverse_discriminator.",
    "pert_encoder.",
    # Models of perturbations predict by a factor and a shift instead of the value decoder.
    "decoder.coeff_decoder.",
    "decoder.bias_decoder.",
    "decoder.zero_logit.",
    "mvc_decoder.W_zero_logit.",
    "cls_decoder.",
)
_BATCH_NORM_EPS = 6.1e-5


@dataclass(frozen=True)
class ScGPTShape:
    """Sizes of a network, from ``args.json`` and the tensors' names."""

    n_tokens: int
    width: int
    heads: int
    ffn: int
    layers: int
    style: str = "continuous"
    value_bins: int = 0
    """Rows of the value table of the style ``category``."""
    decoder_in: int = 0
    """Width that the value decoder reads; 0: there is none."""
    mvc_out: int = 0
    """Width of the MVC decoder's ``W``; 0: there is none."""
    batch_norms: tuple[str, ...] = ()
    """Normalisations of the encoder's input: ``bn``, or ``dsbn.bns.<k>`` for each batch of a fine-tuning run."""
    affine: bool = False
    """Whether they scale and shift besides."""

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every tensor that the network needs."""
        d, f = self.width, self.ffn
        shapes: dict[str, tuple[int, ...]] = {
            "encoder.embedding.weight": (self.n_tokens, d),
            "encoder.enc_norm.weight": (d,),
            "encoder.enc_norm.bias": (d,),
        }
        if self.style == "continuous":
            shapes |= {"value_encoder.linear1.weight": (d, 1), "value_encoder.linear1.bias": (d,)}
            shapes |= {"value_encoder.linear2.weight": (d, d), "value_encoder.linear2.bias": (d,)}
            shapes |= {"value_encoder.norm.weight": (d,), "value_encoder.norm.bias": (d,)}
        elif self.style == "category":
            shapes |= {"value_encoder.embedding.weight": (self.value_bins, d)}
            shapes |= {"value_encoder.enc_norm.weight": (d,), "value_encoder.enc_norm.bias": (d,)}
        for i in range(self.layers):
            layer = f"transformer_encoder.layers.{i}."
            shapes |= {layer + "self_attn.in_proj_weight": (3 * d, d), layer + "self_attn.in_proj_bias": (3 * d,)}
            shapes |= {layer + "self_attn.out_proj.weight": (d, d), layer + "self_attn.out_proj.bias": (d,)}
            shapes |= {layer + "linear1.weight": (f, d), layer + "linear1.bias": (f,)}
            shapes |= {layer + "linear2.weight": (d, f), layer + "linear2.bias": (d,)}
            for norm in ("norm1", "norm2"):
                shapes |= {f"{layer}{norm}.weight": (d,), f"{layer}{norm}.bias": (d,)}
        if self.decoder_in:
            shapes |= {"decoder.fc.0.weight": (d, self.decoder_in), "decoder.fc.0.bias": (d,)}
            shapes |= {"decoder.fc.2.weight": (d, d), "decoder.fc.2.bias": (d,)}
            shapes |= {"decoder.fc.4.weight": (1, d), "decoder.fc.4.bias": (1,)}
        if self.mvc_out:
            shapes |= {"mvc_decoder.gene2query.weight": (d, d), "mvc_decoder.gene2query.bias": (d,)}
            shapes |= {"mvc_decoder.W.weight": (self.mvc_out, d)}
        for norm in self.batch_norms:
            shapes |= {f"{norm}.running_mean": (d,), f"{norm}.running_var": (d,)}
            if self.affine:
                shapes |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
        return shapes


def canonical_keys(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under one set of names, and the names of those that no embedding reads.

    Published files (flash-attention), files saved without it, files of version 0.2.5 and of
    parallel training or ``torch.compile`` call the same attention differently; the layout is the same.

    Raises
    ------
    ModelError
        If two tensors would have the same name.
    """
    out: dict[str, Tensor] = {}
    aside = []
    for key, tensor in tensors.items():
        name = re.sub(r"^((module|_orig_mod)\.)+", "", key)
        name = name.replace(".self_attn._impl.", ".self_attn.")
        name = re.sub(r"\.self_attn\.Wqkv\.(weight|bias)$", r".self_attn.in_proj_\1", name)
        if name.startswith(_ASIDE) or name.endswith(".num_batches_tracked"):
            aside.append(name)
        elif name in out:
            raise ModelError(f"The weights hold {name!r} twice, under different names; it is not clear which is meant.")
        else:
            out[name] = tensor
    return out, aside


def shape_of(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], n_tokens: int) -> ScGPTShape:
    """The network's sizes; what ``args.json`` does not say is read from the tensors."""

    def size(name: str) -> int:
        value = settings.get(name)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 1 <= value <= 10_000_000
            or int(value) != value
        ):
            raise ModelError(f"args.json says {name}={value!r}; it must be a whole number of at least 1.")
        return int(value)

    def rows(name: str, axis: int = 0) -> int:
        return int(tensors[name].shape[axis]) if name in tensors and tensors[name].ndim == 2 else 0

    def once_or_twice(name: str, axis: int) -> int:
        # Twice the width where batch labels are read too; what is of any other size was cut, and is refused by its shape.
        held = rows(name, axis)
        return held if held in (width, 2 * width) else width

    style = str(settings.get("input_emb_style", STYLES[0]))
    if style not in STYLES:
        raise ModelError(f"args.json says input_emb_style={style!r}; known are {', '.join(STYLES)}.")
    layers, width, heads = size("nlayers"), size("embsize"), size("nheads")
    there = {int(m.group(1)) for m in (re.match(r"transformer_encoder\.layers\.(\d+)\.", k) for k in tensors) if m}
    if layers != max(there, default=-1) + 1:
        raise ModelError(f"args.json says nlayers={layers}, the weights hold {max(there, default=-1) + 1} layers.")
    if width % heads:
        raise ModelError(
            f"args.json says embsize={width} and nheads={heads}; the first must be a multiple of the second."
        )
    has = {name.split(".")[0] for name in tensors}
    norms = sorted({n.rsplit(".", 1)[0] for n in tensors if n.startswith(("bn.", "dsbn."))}, key=lambda n: (len(n), n))
    return ScGPTShape(
        n_tokens=n_tokens,
        width=width,
        heads=heads,
        ffn=size("d_hid"),
        layers=layers,
        style=style,
        value_bins=rows("value_encoder.embedding.weight"),
        decoder_in=once_or_twice("decoder.fc.0.weight", 1) if "decoder" in has else 0,
        mvc_out=once_or_twice("mvc_decoder.W.weight", 0) if "mvc_decoder" in has else 0,
        batch_norms=tuple(norms),
        affine=any(f"{norm}.weight" in tensors for norm in norms),
    )


class _GeneEncoder(nn.Module):
    def __init__(self, n_tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = embedding(n_tokens, width)
        self.enc_norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.enc_norm(self.embedding(ids))


class _ContinuousValues(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, width)
        self.linear2 = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Tensor) -> Tensor:
        x = values.clamp(max=LARGEST_VALUE).unsqueeze(-1)
        return self.norm(self.linear2(torch.relu(self.linear1(x))))


class _CategoryValues(nn.Module):
    def __init__(self, n_bins: int, width: int) -> None:
        super().__init__()
        self.embedding = embedding(n_bins, width)
        self.enc_norm = nn.LayerNorm(width)

    def forward(self, values: Tensor) -> Tensor:
        index = values.long()
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= self.embedding.num_embeddings):
            raise ModelError(
                f"These tokens hold values from {int(index.min())} to {int(index.max())}; this checkpoint reads bins "
                f"from 0 to {self.embedding.num_embeddings - 1}."
            )
        return self.enc_norm(self.embedding(index))


class _Decoder(nn.Module):
    def __init__(self, width: int, reads: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(reads, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 1)
        )

    def forward(self, states: Tensor) -> Tensor:
        return self.fc(states).squeeze(-1)


class _MVCDecoder(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.gene2query = nn.Linear(width, width)
        self.W = nn.Linear(width, out, bias=False)

    def queries(self, genes: Tensor) -> Tensor:
        """Gene parts (…, width) → what a cell vector is multiplied with, (…, width of W)."""
        return self.W(torch.sigmoid(self.gene2query(genes)))


class ScGPTNet(nn.Module):
    """scGPT at inference."""

    norm_scale: Tensor | None
    norm_shift: Tensor | None

    def __init__(self, shape: ScGPTShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = _GeneEncoder(shape.n_tokens, shape.width)
        self.value_encoder = (
            _ContinuousValues(shape.width)
            if shape.style == "continuous"
            else _CategoryValues(shape.value_bins, shape.width)
            if shape.style == "category"
            else nn.Identity()
        )
        self.transformer_encoder = PackedEncoder(shape.layers, shape.width, shape.heads, shape.ffn)
        self.decoder = _Decoder(shape.width, shape.decoder_in) if shape.decoder_in else None
        self.mvc_decoder = _MVCDecoder(shape.width, shape.mvc_out) if shape.mvc_out else None
        # Each batch normalisation as one factor and one shift per dimension.
        table = (len(shape.batch_norms), shape.width)
        self.register_buffer("norm_scale", torch.ones(table) if shape.batch_norms else None)
        self.register_buffer("norm_shift", torch.zeros(table) if shape.batch_norms else None)

    @classmethod
    def from_tensors(cls, shape: ScGPTShape, tensors: Mapping[str, Tensor]) -> ScGPTNet:
        """The network with its weights in float32; nothing else is ever allocated."""
        with torch.device("meta"):
            net = cls(shape)
        # Copies, so that the weights outlive their file.
        state = {name: tensor.to(torch.float32, copy=not owned()) for name, tensor in tensors.items()}
        scales, shifts = [], []
        for norm in shape.batch_norms:
            scale = (state.pop(f"{norm}.running_var") + _BATCH_NORM_EPS).rsqrt()
            shift = -state.pop(f"{norm}.running_mean") * scale
            if shape.affine:
                weight = state.pop(f"{norm}.weight")
                scale, shift = scale * weight, shift * weight + state.pop(f"{norm}.bias")
            scales.append(scale)
            shifts.append(shift)
        if scales:
            state |= {"norm_scale": torch.stack(scales), "norm_shift": torch.stack(shifts)}
        net.load_state_dict(state, assign=True)
        return net.eval().requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.encoder.embedding.weight.dtype

    def embed(self, ids: Tensor, values: Tensor, domain: Tensor | None = None) -> Tensor:
        """Input of the encoder: (tokens,), (tokens,) → (tokens, width).

        `domain` names the batch normalisation of each token, where a fine-tuned file holds several.
        """
        genes = self.encoder(ids)
        if self.shape.style == "scaling":
            total = genes * values.to(self.dtype).unsqueeze(-1)
        else:
            # Binned values are few: each is encoded once.
            distinct, which = torch.unique(values, return_inverse=True)
            total = genes + self.value_encoder(distinct.to(self.dtype))[which]
        # Of several normalisations the user must name one; a single one can only be meant.
        if self.norm_scale is None or self.norm_shift is None or (domain is None and len(self.shape.batch_norms) != 1):
            return total
        which = torch.zeros_like(ids) if domain is None else domain
        return total * self.norm_scale[which] + self.norm_shift[which]

    def states(
        self,
        ids: Tensor,
        values: Tensor,
        lengths: NDArray[np.int64],
        *,
        n_layers: int | None = None,
        readers: Tensor | None = None,
        domain: Tensor | None = None,
    ) -> Tensor:
        """States after `n_layers` layers, of all tokens or of one reader per cell."""
        inputs = self.embed(ids, values, domain)
        return self.transformer_encoder(inputs, lengths, n_layers=n_layers, readers=readers)

    def gene_table(self, ids: Iterable[int] | Tensor) -> Tensor:
        """LayerNorm(Embedding) of tokens, (tokens, width): the published gene embedding."""
        return self.encoder(torch.as_tensor(ids, device=self.encoder.embedding.weight.device))

    def mvc(self, cell: Tensor, ids: Tensor) -> Tensor:
        """Expected bins of genes given un-normalised ``<cls>`` states: (cells, width), (genes,) → (cells, genes)."""
        if self.mvc_decoder is None or self.shape.mvc_out != self.shape.width:
            raise ModelError("This checkpoint has no MVC decoder that reads a cell's vector alone.")
        return cell @ self.mvc_decoder.queries(self.encoder(ids)).T

    def value(self, states: Tensor) -> Tensor:
        """Expected bin at each position: (tokens, width) → (tokens,)."""
        if self.decoder is None or self.shape.decoder_in != self.shape.width:
            raise ModelError("This checkpoint has no value decoder that reads a gene's state alone.")
        return self.decoder(states)
