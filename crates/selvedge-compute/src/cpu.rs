//! What the processor can do: [`Isa`] names an instruction set, [`Cpu`] proves that it is there.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use thiserror::Error;

/// An instruction set that kernels are written for.
///
/// Each extends another ([`Isa::extends`]), and a processor that has it has that one as well. They are no single row: those
/// of x86-64 and of aarch64 share [`Isa::Portable`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, on any processor.
    Portable,
    /// NEON with fused multiply-add: every 64-bit ARM processor.
    Neon,
    /// AVX2 with fused multiply-add: x86-64 since 2013.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL): x86-64 servers since 2017.
    Avx512,
    /// AMX tiles with bf16, beside AVX-512 with bf16 conversions: x86-64 servers since 2023.
    Amx,
}

impl Isa {
    /// All of them, on whatever processor, each after the one that it extends.
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The name that `SELVEDGE_ISA` and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }

    /// The next less able instruction set that every processor with this one has; `None` for portable code.
    pub fn extends(self) -> Option<Isa> {
        match self {
            Isa::Portable => None,
            Isa::Neon | Isa::Avx2 => Some(Isa::Portable),
            Isa::Avx512 => Some(Isa::Avx2),
            Isa::Amx => Some(Isa::Avx512),
        }
    }

    /// Whether a processor with this instruction set can run kernels of `other`.
    ///
    /// ```
    /// use selvedge_compute::Isa;
    /// assert!(Isa::Amx.includes(Isa::Avx2) && !Isa::Avx2.includes(Isa::Amx) && !Isa::Neon.includes(Isa::Avx2));
    /// ```
    pub fn includes(self, other: Isa) -> bool {
        self == other || self.extends().is_some_and(|less| less.includes(other))
    }

    /// Whether it multiplies tiles of bf16.
    #[inline]
    pub fn has_tiles(self) -> bool {
        self == Isa::Amx
    }

    /// The instruction set of kernels that work on vectors: AMX has tiles only, so beside it they use AVX-512.
    pub fn vectors(self) -> Isa {
        match self {
            Isa::Amx => Isa::Avx512,
            Isa::Portable | Isa::Neon | Isa::Avx2 | Isa::Avx512 => self,
        }
    }
}

/// The names of some instruction sets: "portable, avx2 or avx512".
fn names(of: impl Iterator<Item = Isa>, last: &str) -> String {
    let names: Vec<_> = of.map(Isa::name).collect();
    match names.split_last() {
        Some((end, [])) => (*end).to_owned(),
        Some((end, first)) => format!("{} {last} {end}", first.join(", ")),
        None => String::new(),
    }
}

/// The names of the instruction sets that `best` includes.
fn included(best: Isa, last: &str) -> String {
    names(Isa::ALL.into_iter().filter(|&isa| best.includes(isa)), last)
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = CpuError;
    fn from_str(name: &str) -> Result<Self, CpuError> {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| CpuError::UnknownIsa { asked: name.to_owned() })
    }
}

/// What activations and packed weights are stored and multiplied in.
///
/// Master weights, gradients of weights, statistics and the loss are f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats throughout.
    F32,
    /// bfloat16 products with f32 accumulation, on AMX.
    Bf16,
}

impl Precision {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<half::bf16>(),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

/// An instruction set or a precision that is not to be had.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CpuError {
    /// A name that is none of [`Isa::ALL`].
    #[error("unknown instruction set {asked:?}: SELVEDGE_ISA can be {}", names(Isa::ALL.into_iter(), "or"))]
    UnknownIsa {
        /// The name given.
        asked: String,
    },
    /// An instruction set that this processor, or its system, does not offer.
    #[error(
        "instruction set {asked} is not available: this machine has {}, and SELVEDGE_ISA can name one of these",
        included(*best, "and")
    )]
    MissingIsa {
        /// The one asked for.
        asked: Isa,
        /// The most able one that is there.
        best: Isa,
    },
    /// bf16 on a processor without AMX.
    #[error(
        "precision bf16 needs AMX with bf16, and this machine, as limited by SELVEDGE_ISA, has {has}: use f32 or auto"
    )]
    MissingBf16 {
        /// The instruction set in use.
        has: Isa,
    },
}

/// Proof that the processor has an instruction set: only detection makes one, so a kernel that gets one may use it.
///
/// ```
/// use selvedge_compute::{Cpu, Isa};
/// let cpu = Cpu::detect()?;
/// println!("kernels will use {}", cpu.isa());
/// assert!(cpu.isa().includes(Cpu::with(Isa::Portable)?.isa()));
/// # Ok::<(), selvedge_compute::CpuError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    isa: Isa,
}

impl Cpu {
    /// The most able instruction set of this processor, or the one that the environment variable `SELVEDGE_ISA`
    /// names, one of [`Isa::ALL`].
    ///
    /// # Errors
    /// If `SELVEDGE_ISA` names no instruction set, or one that this machine lacks.
    pub fn detect() -> Result<Self, CpuError> {
        match std::env::var_os("SELVEDGE_ISA") {
            Some(name) if !name.is_empty() => Self::with(name.to_string_lossy().parse()?),
            _ => Ok(Self { isa: best_isa() }),
        }
    }

    /// The instruction set `isa`, if the machine has it.
    ///
    /// # Errors
    /// [`CpuError::MissingIsa`] if it does not.
    pub fn with(isa: Isa) -> Result<Self, CpuError> {
        let best = best_isa();
        if !best.includes(isa) {
            return Err(CpuError::MissingIsa { asked: isa, best });
        }
        Ok(Self { isa })
    }

    /// Every instruction set that this machine has, the least able first: what a test runs each kernel on.
    pub fn all() -> Vec<Self> {
        Isa::ALL.into_iter().filter_map(|isa| Self::with(isa).ok()).collect()
    }

    /// The instruction set.
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// The best precision for training here: bf16 with AMX, else f32.
    pub fn best_precision(self) -> Precision {
        if self.isa.has_tiles() { Precision::Bf16 } else { Precision::F32 }
    }

    /// Whether `precision` can be computed in.
    ///
    /// # Errors
    /// [`CpuError::MissingBf16`] for bf16 without AMX.
    pub fn check(self, precision: Precision) -> Result<(), CpuError> {
        match precision {
            Precision::Bf16 if !self.isa.has_tiles() => Err(CpuError::MissingBf16 { has: self.isa }),
            _ => Ok(()),
        }
    }
}

fn best_isa() -> Isa {
    static BEST: OnceLock<Isa> = OnceLock::new();
    *BEST.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    use std::is_x86_feature_detected as has;
    if !(has!("avx2") && has!("fma")) {
        return Isa::Portable;
    }
    if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
        return Isa::Avx2;
    }
    if !(has!("avx512bf16") && amx_offered() && amx_permitted()) {
        return Isa::Avx512;
    }
    Isa::Amx
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Isa {
    if std::arch::is_aarch64_feature_detected!("neon") { Isa::Neon } else { Isa::Portable }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> Isa {
    Isa::Portable
}

/// Whether CPUID reports AMX tiles and their bf16 product (leaf 7, EDX bits 24 and 22).
#[cfg(target_arch = "x86_64")]
fn amx_offered() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(0).eax < 7 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    features & (1 << 24) != 0 && features & (1 << 22) != 0
}

/// Asks Linux, once for the process, for the permission to use tile data (`arch_prctl(ARCH_REQ_XCOMP_PERM, 18)`).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_permitted() -> bool {
    const SYS_ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let answer: isize;
    // SAFETY: the call takes two numbers, touches no memory of ours, and clobbers rcx and r11 as every system call.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx_permitted() -> bool {
    false
}

/// Has the calling thread take denormal operands for zero, and give zero instead of denormal results.
#[cfg(target_arch = "x86_64")]
pub(crate) fn flush_denormals() {
    const FLUSH_TO_ZERO: u32 = 1 << 15;
    const DENORMALS_ARE_ZERO: u32 = 1 << 6;
    let mut state = 0u32;
    // SAFETY: both instructions touch only the control register and the four bytes of `state`; SSE is part of x86-64, and
    // the two bits change rounding to zero of denormals alone, which Rust code does not rely on here.
    unsafe {
        std::arch::asm!("stmxcsr [{0}]", in(reg) &mut state, options(nostack));
        state |= FLUSH_TO_ZERO | DENORMALS_ARE_ZERO;
        std::arch::asm!("ldmxcsr [{0}]", in(reg) &state, options(nostack));
    }
}

/// Has the calling thread take denormal operands for zero, and give zero instead of denormal results.
#[cfg(target_arch = "aarch64")]
pub(crate) fn flush_denormals() {
    /// Bit FZ of FPCR, for operands and results alike.
    const FLUSH_TO_ZERO: u64 = 1 << 24;
    // SAFETY: both instructions touch only the control register of floating-point arithmetic, which every aarch64
    // processor of these targets has, and the bit changes denormals alone, which Rust code does not rely on here.
    unsafe {
        let mut state: u64;
        std::arch::asm!("mrs {0}, fpcr", out(reg) state, options(nomem, nostack, preserves_flags));
        state |= FLUSH_TO_ZERO;
        std::arch::asm!("msr fpcr, {0}", in(reg) state, options(nostack, preserves_flags));
    }
}

/// Leaves denormals as they are: nothing is known of this processor's control register.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn flush_denormals() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_is_always_there_and_the_list_ascends() {
        let all = Cpu::all();
        assert_eq!(all[0].isa(), Isa::Portable);
        assert!(all.windows(2).all(|w| w[1].isa().extends() == Some(w[0].isa())));
    }

    #[test]
    fn each_set_comes_after_the_one_that_it_extends() {
        for (at, isa) in Isa::ALL.into_iter().enumerate() {
            assert!(isa.includes(isa) && isa.includes(Isa::Portable) && isa.includes(isa.vectors()));
            assert_eq!(isa.vectors().vectors(), isa.vectors());
            assert_eq!(isa.extends().is_none(), isa == Isa::Portable);
            assert!(isa.extends().is_none_or(|less| Isa::ALL[..at].contains(&less) && !less.includes(isa)));
        }
    }

    #[test]
    fn names_read_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
        let message = "sse9".parse::<Isa>().unwrap_err().to_string();
        assert_eq!(
            message,
            "unknown instruction set \"sse9\": SELVEDGE_ISA can be portable, neon, avx2, avx512 or amx"
        );
    }

    #[test]
    fn an_instruction_set_that_is_missing_or_foreign_names_what_the_machine_has() {
        let all: Vec<_> = Cpu::all().into_iter().map(|cpu| cpu.isa().name()).collect();
        let mut missing = 0;
        for error in Isa::ALL.into_iter().filter_map(|isa| Cpu::with(isa).err()) {
            let message = error.to_string();
            assert!(message.contains("SELVEDGE_ISA") && all.iter().all(|name| message.contains(name)), "{message}");
            missing += 1;
        }
        assert!(missing + all.len() == Isa::ALL.len() && missing > 0, "no machine has them all");
        let error = CpuError::MissingIsa { asked: Isa::Neon, best: Isa::Avx512 };
        assert_eq!(
            error.to_string(),
            "instruction set neon is not available: this machine has portable, avx2 and avx512, and SELVEDGE_ISA can name \
             one of these"
        );
    }

    #[test]
    fn bf16_needs_amx() {
        let portable = Cpu::with(Isa::Portable).unwrap();
        assert_eq!(portable.best_precision(), Precision::F32);
        assert_eq!(portable.check(Precision::Bf16), Err(CpuError::MissingBf16 { has: Isa::Portable }));
        assert_eq!(portable.check(Precision::F32), Ok(()));
    }
}
