//! Imports: an upload that goes on at a byte offset, and the job that appends its lines to the log (BLK-2).
//!
//! - `record`: an upload as it is kept; what a client asks for, checked
//! - `upload`: its content, appended at an offset
//! - `unpack`: a packed upload as bytes, with bounds on what it may grow to
//! - `lines`: bytes as lines, with a bound on each
//! - `line`: one line as a header or an event
//! - `report`: what was not taken, a line each
//! - `work`: the job

mod line;
mod lines;
mod record;
mod report;
mod unpack;
mod upload;
mod work;

pub use record::{ImportRecord, ImportRequest, RATE_MAX, read_commit, read_import};
pub use report::{REPORT_LINES_MAX, ReportPage, read_report, report_path};
pub use upload::{Appending, SYNC_BYTES, content_path};
pub use work::{Counts, ImportPlace, ImportSpec, ImportWork, Pressure, Taken, Taking};
