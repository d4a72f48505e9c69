//! Standard Webhooks, checked with nothing of the hub's own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::Delivery;

/// Fails unless one of the delivery's signatures is that of this secret.
#[track_caller]
pub fn assert_signed(delivery: &Delivery, secret: &str) {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret starts with whsec_")).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(delivery.header("webhook-id").as_bytes());
    mac.update(b".");
    mac.update(delivery.header("webhook-timestamp").as_bytes());
    mac.update(b".");
    mac.update(&delivery.body);
    let wanted = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    let given = delivery.header("webhook-signature");
    assert!(given.split(' ').any(|one| one == wanted), "{given} is not {wanted}");
    let timestamp = delivery.header("webhook-timestamp");
    assert!(timestamp.len() == 10 && timestamp.bytes().all(|byte| byte.is_ascii_digit()), "seconds: {timestamp}");
}
