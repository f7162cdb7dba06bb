//! The `batonq` program.

fn main() -> std::process::ExitCode {
    batonq::main()
}
