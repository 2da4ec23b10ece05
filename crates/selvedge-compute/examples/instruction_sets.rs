//! Prints each instruction set that has kernels, and whether this machine can run them: `cargo run --example
//! instruction_sets`.

use selvedge_compute::{Cpu, Isa};

fn main() {
    for isa in Isa::ALL {
        let found = if Cpu::with(isa).is_ok() { "yes" } else { "no" };
        println!("{:8} {found}", isa.name());
    }
}
