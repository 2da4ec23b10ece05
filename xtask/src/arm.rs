//! `ci --arm`: builds and tests for 64-bit ARM on a machine of another kind, under emulation, and reads the machine code of
//! the microkernels.
//!
//! An emulator says nothing about speed. What can be seen without the processor is the code: the inner loops of the
//! microkernels multiply four lanes at a time, and keep every sum in a register.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step::{Outcome, Work, execute};
use crate::workspace::{cargo, root, say};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER";
const RUNNER: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER";

/// The loader of ARM programs, and where a cross compiler keeps its own.
const LOADER: &str = "/lib/ld-linux-aarch64.so.1";
const SYSROOT: &str = "/usr/aarch64-linux-gnu";

/// The kernel's list of programs of other processors that it starts by itself, through an emulator.
const FOREIGN_PROGRAMS: &str = "/proc/sys/fs/binfmt_misc/qemu-aarch64";

/// Multiply-adds of a microkernel's inner loop: four steps of 4 × 4 sums.
const MULTIPLY_ADDS: usize = 64;

/// The fewest microkernels that the trainer must hold: the f32 passes over pixels, taps, and Winograd's products and sums.
const MICROKERNELS: usize = 4;

/// Cargo's variables for the target, as far as the caller has not set them.
type Variables = Vec<(&'static str, PathBuf)>;

/// What is built and tested, or the one step that says what is missing.
pub(crate) fn steps() -> Vec<(&'static str, Work)> {
    let variables = match find() {
        Ok(variables) => variables,
        Err(missing) => return vec![("arm", Box::new(move || Outcome::Skipped(missing)))],
    };
    let command = |subcommand: &str, args: &[&str]| {
        let mut command = cargo(subcommand);
        command.args(["--locked", "--target", TARGET]).args(args);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command
    };
    let build = command("build", &["--release", "--package", "selvedge-trainer"]);
    let mut kernels = command("test", &["--package", "selvedge-compute", "--no-fail-fast"]);
    kernels.env("SELVEDGE_REQUIRE_ISA", "neon");
    let libraries = ["selvedge-atomic-file", "selvedge-idx", "selvedge-augment", "selvedge-model"];
    let libraries: Vec<&str> =
        libraries.iter().flat_map(|name| ["--package", name]).chain(["--no-fail-fast"]).collect();
    let libraries = command("test", &libraries);
    let trainer = command("test", &["--package", "selvedge-trainer", "--no-fail-fast"]);
    vec![
        ("build", Box::new(|| execute(build, None))),
        ("code", Box::new(check_code)),
        ("kernels", Box::new(|| execute(kernels, None))),
        ("libraries", Box::new(|| execute(libraries, None))),
        ("trainer", Box::new(|| test_trainer(trainer))),
    ]
}

/// The trainer's tests start its program, which cargo's runner does not see.
fn test_trainer(command: Command) -> Outcome {
    if Path::new(FOREIGN_PROGRAMS).exists() {
        return execute(command, None);
    }
    let needed = "its tests start an ARM program, and this kernel starts none by itself (binfmt_misc has no qemu-aarch64; \
                  the package qemu-user-binfmt registers it)";
    Outcome::Skipped(needed.to_owned())
}

/// The variables that building and running for ARM takes, or what is missing.
fn find() -> Result<Variables, String> {
    if cfg!(target_arch = "aarch64") {
        return Err("this is an ARM machine, which `cargo xtask ci` tests without --arm".to_owned());
    }
    let (mut variables, mut missing) = (Variables::new(), Vec::new());
    if !has_standard_library() {
        missing.push(format!("no Rust standard library for {TARGET} (`rustup target add {TARGET}`)"));
    }
    let mut find = |variable: &'static str, names: &[&str], what: &str| match on_path(names) {
        _ if env::var_os(variable).is_some() => {}
        Some(program) => variables.push((variable, program)),
        None => missing.push(format!("no {} ({what})", names.join(" or "))),
    };
    find(LINKER, &["aarch64-linux-gnu-gcc"], "a cross compiler, to link with");
    find(RUNNER, &["qemu-aarch64-static", "qemu-aarch64"], "the emulator, to run tests");
    if !Path::new(LOADER).exists() && env::var_os("QEMU_LD_PREFIX").is_none() {
        variables.push(("QEMU_LD_PREFIX", SYSROOT.into()));
    }
    if missing.is_empty() { Ok(variables) } else { Err(missing.join(", ")) }
}

fn has_standard_library() -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    let Ok(output) = output else { return false };
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
}

fn on_path(names: &[&str]) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    let files = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    files.into_iter().find(|file| file.is_file())
}

/// Disassembles the trainer and looks at its microkernels.
fn check_code() -> Outcome {
    let Some(objdump) = on_path(&["aarch64-linux-gnu-objdump"]) else {
        return Outcome::Skipped("no aarch64-linux-gnu-objdump (to read the machine code)".to_owned());
    };
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let program = target.join(TARGET).join("release").join("selvedge");
    let output = Command::new(objdump).args(["-d", "-C", "--no-show-raw-insn"]).arg(&program).output();
    let Ok(output) = output else { return Outcome::Failed };
    let kernels = microkernels(&String::from_utf8_lossy(&output.stdout));
    for kernel in &kernels {
        let Loop { instructions, multiply_adds, stack } = kernel.inner;
        say(&format!("{multiply_adds} fmla of {instructions} instructions, {stack} on the stack: {}\n", kernel.name));
    }
    if kernels.len() < MICROKERNELS {
        say(&format!("{} inner loops of {MULTIPLY_ADDS} fmla, and at least {MICROKERNELS} kernels\n", kernels.len()));
        return Outcome::Failed;
    }
    if kernels.iter().any(|kernel| kernel.inner.stack > 0) { Outcome::Failed } else { Outcome::Passed }
}

/// A function that multiplies in a tile of registers.
#[derive(Debug, PartialEq)]
struct Microkernel {
    name: String,
    inner: Loop,
}

/// A loop with no other in it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Loop {
    instructions: usize,
    /// Of four lanes.
    multiply_adds: usize,
    /// Instructions that load from the stack or store to it.
    stack: usize,
}

/// The functions of the disassembly that run in a NEON tile, each with its inner loop: that of the most multiply-adds.
fn microkernels(disassembly: &str) -> Vec<Microkernel> {
    let mut kernels = Vec::new();
    for function in disassembly.split("\n\n") {
        let mut lines = function.lines().skip_while(|line| !line.ends_with(">:"));
        let Some(name) = lines.next().and_then(|line| line.split_once('<')).map(|(_, name)| name) else { continue };
        if !(name.contains("neon") && name.contains("outlined")) {
            continue;
        }
        let code: Vec<(&str, &str)> =
            lines.filter_map(|line| line.split_once(':')).map(|(at, code)| (at.trim(), code.trim())).collect();
        let inner = inner_loops(&code).into_iter().max_by_key(|inner| inner.multiply_adds);
        if let Some(inner) = inner.filter(|inner| inner.multiply_adds >= MULTIPLY_ADDS) {
            kernels.push(Microkernel { name: name.trim_end_matches(">:").to_owned(), inner });
        }
    }
    kernels
}

/// The loops of a function without another in them: from a branch's target to the branch.
fn inner_loops(code: &[(&str, &str)]) -> Vec<Loop> {
    let start = |end: usize| {
        let (operation, operands) = code[end].1.split_once(char::is_whitespace)?;
        let target = operands.split(" <").next()?.rsplit([',', ' ', '\t']).next()?;
        let is_branch = operation == "b" || ["b.", "cb", "tb"].iter().any(|branch| operation.starts_with(branch));
        is_branch.then(|| code[..=end].iter().rposition(|(at, _)| *at == target))?
    };
    let loops: Vec<(usize, usize)> = (0..code.len()).filter_map(|end| start(end).map(|start| (start, end))).collect();
    let is_inner = |&(start, end): &(usize, usize)| {
        !loops.iter().any(|&other| other != (start, end) && start <= other.0 && other.1 <= end)
    };
    let describe = |(start, end): (usize, usize)| {
        let body = &code[start..=end];
        let count = |is: fn(&str) -> bool| body.iter().filter(|(_, code)| is(code)).count();
        Loop {
            instructions: body.len(),
            multiply_adds: count(|code| code.starts_with("fmla") && code.contains(".4s")),
            stack: count(|code| code.contains("[sp") || code.contains("[x29")),
        }
    };
    loops.iter().copied().filter(is_inner).map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inner_loop_is_found_with_what_it_does() {
        let step = "  14:\tfmla\tv1.4s, v2.4s, v3.s[0]\n".repeat(64);
        let function = |name: &str, load: &str| {
            format!(
                "\n\n0000 <{name}>:\n   8:\tmov\tx0, #0x0\n  10:\t{load}\n{step}  18:\tsubs\tx2, x2, #0x1\n  1c:\tb.ne\t10 \
                 <{name}+0x10>  // b.any\n  20:\tcbnz\tx3, 8 <{name}+0x8>\n  24:\tret"
            )
        };
        let inner = Loop { instructions: 67, multiply_adds: 64, stack: 0 };
        let text = function("neon::enter", "ldp\tq1, q2, [x0]") + &function("Neon::outlined::neon", "ldr\tq1, [x0]");
        assert_eq!(microkernels(&text), [Microkernel { name: "Neon::outlined::neon".to_owned(), inner }]);
        let spilled = microkernels(&function("neon outlined", "ldr\tq1, [sp, #16]"));
        assert_eq!(spilled[0].inner, Loop { stack: 1, ..inner });
        assert_eq!(microkernels(&function("portable outlined", "ldr\tq1, [x0]")), []);
    }
}
