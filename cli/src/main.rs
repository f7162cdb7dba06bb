//! The `batonq` program.

/// A job costs the node some dozen allocations; this one makes them a quarter cheaper.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    batonq::main()
}
