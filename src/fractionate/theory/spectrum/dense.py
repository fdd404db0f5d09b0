"""The knowledge spectrum: what a teacher knows beyond a uniform guess, split exactly into five terms, in nats."""

from __future__ import annotations

from fractionate.errors import ConfigError
from fractionate.records import Spectrum
from fractionate.theory.spectrum.stream import SpectrumStream
from fractionate.theory.teacher_signal import TeacherSignal


def spectrum(signal: TeacherSignal, temperature: float = 1.0) -> Spectrum:
    """Split the teacher's information log K - E[H(p)] into universe, domain and instance, confidence and shape apart.

    With p the teacher's distribution at the temperature, m_c the class means, π_c the class shares, p̄ = Σ π_c m_c[c] and KL2 the KL
    of two-way splits (label, rest):

    - universe = KL((p̄, rest flat) ‖ uniform)
    - domain.confidence = Σ π_c KL2(m_c[c] ‖ p̄)
    - domain.shape = Σ π_c (1 - m_c[c]) KL(off-label shape of m_c ‖ flat)
    - instance.confidence = E KL2(p[y] ‖ m_y[y])
    - instance.shape = E (1 - p[y]) KL(off-label shape of p ‖ off-label shape of m_y)

    One pass over the rows in chunks, sums in float64; rows of single and half precision are worked on in float32 (about 1e-6 of a
    term) unless their logits are very large. Each term is the information that one step hard → ls → class-mean → kd adds.
    Source: ours (Pythagoras for KL with means, then the chain rule).

    Args:
        signal: Logits [batch, classes] and labels [batch].
        temperature: Of the teacher's distribution.

    Returns:
        A `Spectrum`: the five terms in nats, with intervals over examples.

    Raises:
        ConfigError: for what is no `TeacherSignal`.

    Example:
        import torch
        from fractionate import TeacherSignal, spectrum

        print(spectrum(TeacherSignal(torch.randn(40, 4), torch.arange(40) % 4)))
    """
    if not isinstance(signal, TeacherSignal):
        raise ConfigError(
            "this is no teacher's signal", expected="TeacherSignal(logits, labels)", got=type(signal).__name__
        )
    stream = SpectrumStream(
        signal.classes, temperature=temperature, labels_present=signal.labels, device=signal.logits.device
    )
    stream.add(signal.logits.detach(), signal.labels)
    return stream.finish()
