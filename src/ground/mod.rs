//! The ground floor: what every other module may use and what uses none of them.

pub mod clock;
pub mod codec;
pub mod context;
pub mod error;
pub mod fields;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod random;
pub mod secret;
