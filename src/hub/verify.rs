//! The offline check of everything a hub keeps: the store, what stands in its documents, and the files of exports and
//! imports.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::handlers::HandlerRecord;
use super::keys::{KeyRecord, KeyUse};
use super::{owner, publishes};
use crate::breaker::{self, BreakerSettings};
use crate::bulk::import::ImportRecord;
use crate::bulk::verify::check_files;
use crate::bulk::{EXPORT, IMPORT};
use crate::catalog::aggregate::LifecycleRecord;
use crate::catalog::policy::OrgPolicy;
use crate::catalog::record::{TypeRecord, VersionRecord};
use crate::ground::ids::Seq;
use crate::job::{DOCUMENT_KIND as JOB_KIND, JobRecord};
use crate::pull::record::PullRecord;
use crate::replay::check_spec;
use crate::source::record::SourceRecord;
use crate::store::StoreError;
use crate::store::verify::{self, Report};
use crate::upstream::record::UpstreamRecord;
use crate::webhook::record::WebhookRecord;

/// What the files are compared with.
#[derive(Default)]
struct Kept {
    jobs: Vec<JobRecord>,
    imports: Vec<ImportRecord>,
    faults: Vec<String>,
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

impl Kept {
    fn job(&mut self, bytes: &[u8]) -> Result<(), String> {
        let job: JobRecord = read(bytes)?;
        match job.kind.as_str() {
            // With their files, below.
            EXPORT | IMPORT => {}
            _ => check_spec(&job)?,
        }
        self.jobs.push(job);
        Ok(())
    }

    fn document(&mut self, kind: &str, bytes: &[u8]) -> Result<(), String> {
        match kind {
            "key" => read::<KeyRecord>(bytes).map(drop),
            "key-use" => read::<KeyUse>(bytes).map(drop),
            "webhook" => read::<WebhookRecord>(bytes).map(drop),
            owner::DOCUMENT_KIND => read::<owner::HealthRecord>(bytes).map(drop),
            "consumer" => read::<PullRecord>(bytes).map(drop),
            "handler" => read::<HandlerRecord>(bytes).map(drop),
            "source" => read::<SourceRecord>(bytes).map(drop),
            "settings" => read::<Map<String, Value>>(bytes).map(drop),
            "type" => read::<TypeRecord>(bytes).map(drop),
            "schema" => read::<VersionRecord>(bytes).map(drop),
            "policy" => read::<OrgPolicy>(bytes).map(drop),
            "lifecycle" => read::<LifecycleRecord>(bytes).map(drop),
            "upstream" => read::<UpstreamRecord>(bytes).map(drop),
            publishes::DOCUMENT_KIND => read::<publishes::Place>(bytes).map(drop),
            "import" => read::<ImportRecord>(bytes).map(|record| self.imports.push(record)),
            JOB_KIND => self.job(bytes),
            breaker::actor::DOCUMENT_KIND => {
                breaker::record::decode(bytes, BreakerSettings::default()).map(drop).map_err(|error| error.to_string())
            }
            _ => Err("this version knows no documents of this kind".to_owned()),
        }
    }
}

/// Reads everything under `data_dir`. The hub must not be running. `progress` is told the last position of the log that
/// was read, now and then.
///
/// # Errors
/// When the store cannot be opened or fails; what is damaged is told in [`Report::faults`].
pub fn verify(data_dir: &Path, progress: &mut dyn FnMut(Seq, Seq)) -> Result<Report, StoreError> {
    let mut kept = Kept::default();
    let mut document = |kind: &str, key: &str, bytes: &[u8]| {
        if let Err(reason) = kept.document(kind, bytes) {
            kept.faults.push(format!("{kind} {key}: its document does not decode: {reason}"));
        }
    };
    let mut report = verify::verify(data_dir, &mut document, progress)?;
    let Kept { jobs, imports, faults } = kept;
    faults.into_iter().for_each(|fault| report.fault(fault));
    let mut found = Vec::new();
    report.bulk_files = check_files(&data_dir.join("bulk"), &jobs, &imports, &mut |fault| found.push(fault));
    found.into_iter().for_each(|fault| report.fault(fault));
    Ok(report)
}
