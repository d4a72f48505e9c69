//! The `tidegate` program: everything is in the library.

/// An event's memory is made on one thread and freed on another; the system's allocator spends a sixth of the hub's time
/// on that, mostly waiting for its own locks. Of the two that do not, jemalloc keeps a quarter less memory than mimalloc at
/// the same speed (a million events in the log: 168 against 218 MB).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    tidegate::cli::run()
}
