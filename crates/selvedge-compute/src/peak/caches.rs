//! [`Caches`]: the sizes of a core's data caches, as the processor tells them.

/// The sizes of a core's data caches in bytes.
///
/// ```
/// let caches = selvedge_compute::peak::Caches::detect();
/// assert!(caches.first > 0 && caches.first < caches.second);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// The first-level data cache.
    pub first: usize,
    /// The second-level cache.
    pub second: usize,
}

impl Caches {
    /// What is assumed of a processor that does not tell: 32 KiB and 512 KiB, which nearly every core has.
    pub const ASSUMED: Caches = Caches { first: 32 << 10, second: 512 << 10 };

    /// As CPUID tells on x86-64, and the system on other Linux machines, or [`Caches::ASSUMED`].
    pub fn detect() -> Self {
        let [first, second] = sizes();
        match (first, second) {
            (Some(first), Some(second)) if first < second => Self { first, second },
            _ => Self::ASSUMED,
        }
    }
}

/// Sizes by level from CPUID's list of caches: leaf 4 (Intel) or, in the same form, 8000_001D (AMD).
#[cfg(target_arch = "x86_64")]
fn sizes() -> [Option<usize>; 2] {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const DATA: u32 = 1;
    const UNIFIED: u32 = 3;
    let leaf = if __cpuid(0x8000_0000).eax >= 0x8000_001d && __cpuid_count(0x8000_001d, 0).eax & 31 != 0 {
        0x8000_001d
    } else if __cpuid(0).eax >= 4 {
        4
    } else {
        return [None; 2];
    };
    let mut sizes = [None; 2];
    // The list ends with a cache of type 0; no processor has more than a handful.
    for number in 0..8 {
        let cache = __cpuid_count(leaf, number);
        let (kind, level) = (cache.eax & 31, cache.eax >> 5 & 7);
        if kind == 0 {
            break;
        }
        if !matches!((kind, level), (DATA | UNIFIED, 1 | 2)) {
            continue;
        }
        let (ways, partitions, line) = (1 + (cache.ebx >> 22), 1 + (cache.ebx >> 12 & 1023), 1 + (cache.ebx & 4095));
        let bytes = [ways, partitions, line, 1 + cache.ecx].into_iter().map(|factor| factor as usize).product();
        sizes[level as usize - 1] = Some(bytes);
    }
    sizes
}

/// Sizes by level from the first processor's folder of caches.
#[cfg(all(not(target_arch = "x86_64"), target_os = "linux"))]
fn sizes() -> [Option<usize>; 2] {
    let mut sizes = [None; 2];
    // One folder a cache; no processor has more than a handful.
    for number in 0..8 {
        let value = |name: &str| {
            std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{number}/{name}")).ok()
        };
        let (Some(kind), Some(level), Some(size)) = (value("type"), value("level"), value("size")) else { break };
        let level = match (kind.trim(), level.trim()) {
            ("Data" | "Unified", "1") => 0,
            ("Data" | "Unified", "2") => 1,
            _ => continue,
        };
        // "64K"
        sizes[level] = size.trim().strip_suffix('K').and_then(|size| size.parse().ok()).map(|size: usize| size << 10);
    }
    sizes
}

#[cfg(not(any(target_arch = "x86_64", target_os = "linux")))]
fn sizes() -> [Option<usize>; 2] {
    [None; 2]
}
