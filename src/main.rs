//! The `tidegate` program: everything is in the library.

/// An event's memory is made on one thread and freed on another; the system's allocator spends a sixth of the hub's time
/// on that, mostly waiting for its own locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tidegate::cli::run()
}
