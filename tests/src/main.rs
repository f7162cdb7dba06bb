//! The program under test: the same as `batonq`.

fn main() -> std::process::ExitCode {
    batonq::main()
}
