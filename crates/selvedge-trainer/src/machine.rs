//! The machine that a run is on: the processor's name, and the memory that the process has used.

use std::env::consts::ARCH;

/// The most memory that this process has used; `None` where the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Elsewhere it takes a system call that the standard library lacks.
#[cfg(not(target_os = "linux"))]
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    None
}

/// The processor's name, or the architecture's if the system does not tell.
pub(crate) fn cpu_name() -> String {
    system_cpu_name().filter(|name| !name.is_empty()).unwrap_or_else(|| ARCH.to_owned())
}

#[cfg(target_os = "macos")]
fn system_cpu_name() -> Option<String> {
    let sysctl =
        std::process::Command::new("/usr/sbin/sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
    String::from_utf8(sysctl.stdout).ok().map(|name| name.trim().to_owned())
}

#[cfg(windows)]
fn system_cpu_name() -> Option<String> {
    std::env::var("PROCESSOR_IDENTIFIER").ok().map(|name| name.trim().to_owned())
}

/// Linux has the name on x86-64 only.
#[cfg(not(any(target_os = "macos", windows)))]
fn system_cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}
