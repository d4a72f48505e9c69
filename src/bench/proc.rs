//! What Linux tells of a process: memory and processor time, read from `/proc`.

use anyhow::Context as _;

/// Ticks per second of the times in `/proc/PID/stat`: `USER_HZ`, 100 on every Linux this runs on (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub rss: u64,
    /// The most that was resident.
    pub peak: u64,
}

/// Memory of a running process.
///
/// # Errors
/// When the process is gone or the machine has no `/proc`.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_status(&text).with_context(|| path)
}

/// Processor time of a running process in seconds, its own and the kernel's for it, over all threads.
///
/// # Errors
/// When the process is gone or the machine has no `/proc`.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_stat(&text).with_context(|| path)
}

fn parse_status(text: &str) -> anyhow::Result<Memory> {
    let field = |name: &str| -> anyhow::Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().with_context(|| name.to_owned())?;
        Ok(kib * 1_024)
    };
    Ok(Memory { rss: field("VmRSS:")?, peak: field("VmHWM:")? })
}

fn parse_stat(text: &str) -> anyhow::Result<f64> {
    // The name in parentheses may hold spaces and parentheses; fields are counted after the last one.
    let (_, rest) = text.rsplit_once(')').context("no process name")?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = || -> anyhow::Result<f64> { Ok(fields.next().context("too few fields")?.parse()?) };
    Ok((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_processor_time_are_read_from_their_texts() {
        let status = "Name:\tx\nVmPeak:\t  9999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse_status(status).expect("memory"), Memory { rss: 1 << 20, peak: 2 << 20 });
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 100 0 0";
        assert_eq!(parse_stat(stat).expect("time"), 3.0);
        assert!(parse_status("Name: x\n").is_err());
        assert!(parse_stat("42 (x) S 1").is_err());
    }

    #[test]
    fn this_process_uses_memory() {
        let memory = memory(std::process::id()).expect("own memory");
        assert!(memory.rss > 0 && memory.peak >= memory.rss);
        assert!(cpu_seconds(std::process::id()).expect("own time") >= 0.0);
    }
}
