//! Authorization: root, and users whom polkit allows.

use std::{collections::HashMap, sync::Arc};

use zbus::{
    Connection, Variant, fdo,
    message::{Flags, Header},
};

use super::{Error, limits::Limit, names::NOT_AUTHENTICATED};

/// Holding, releasing, starting and stopping services.
pub const MANAGE: &str = "org.ondemand1.manage";
/// Reading the configuration again.
pub const RELOAD: &str = "org.ondemand1.reload";

/// `CheckAuthorization` may ask the user for a password.
const ALLOW_USER_INTERACTION: u32 = 1;

/// polkit (org.freedesktop.PolicyKit1.Authority(8)).
#[zbus::proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    /// Returns whether it is allowed, whether it would be after authentication, and details.
    fn check_authorization(
        &self,
        subject: &(&str, HashMap<&str, Variant<'_>>),
        action: &str,
        details: &HashMap<&str, &str>,
        flags: u32,
        cancellation_id: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
}

/// Checks whether the caller of `call`, who is `user`, is authorized. `details` are for polkit's rules;
/// `questions` are those to polkit, by client and by user, which may ask a person and take minutes.
///
/// # Errors
///
/// It is not; the message says who is. Or there are too many pending queries.
pub(super) async fn check(
    questions: [&Arc<Limit>; 2],
    user: u32,
    connection: &Connection,
    call: &Header<'_>,
    action: &str,
    details: &[(&str, &str)],
) -> Result<(), Error> {
    if user == 0 {
        return Ok(());
    }
    let Some(sender) = call.sender() else {
        return Err(Error::access_denied("the caller is unknown"));
    };
    let [of_clients, of_users] = questions;
    let _question = (of_clients.admit(call)?, of_users.admit_user(user)?);
    let interactive = call
        .primary()
        .flags()
        .contains(Flags::ALLOW_INTERACTIVE_AUTH);
    match ask_polkit(connection, sender.as_str(), action, details, interactive).await {
        Ok((true, _)) => Ok(()),
        Ok((false, true)) if !interactive => Err(Error::new(
            NOT_AUTHENTICATED,
            format!("only root may do this, or a user who authenticates for {action}"),
        )),
        Ok((false, _)) => Err(Error::access_denied(format!(
            "only root may do this, and polkit does not allow you {action}"
        ))),
        Err(zbus::Error::FDO(error)) if is_absent(&error) => Err(Error::access_denied(
            "only root may do this, because polkit is not running on this host",
        )),
        Err(error) => Err(Error::access_denied(format!(
            "only root may do this, because polkit does not answer: {error}"
        ))),
    }
}

fn is_absent(error: &fdo::Error) -> bool {
    matches!(
        error,
        fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_)
    )
}

/// Whether it is allowed, and whether it would be after authentication.
async fn ask_polkit(
    connection: &Connection,
    sender: &str,
    action: &str,
    details: &[(&str, &str)],
    interactive: bool,
) -> zbus::Result<(bool, bool)> {
    let subject = HashMap::from([("name", Variant::from(sender))]);
    let details: HashMap<&str, &str> = details.iter().copied().collect();
    let flags = if interactive {
        ALLOW_USER_INTERACTION
    } else {
        0
    };
    let authority = AuthorityProxy::new(connection).await?;
    let subject = ("system-bus-name", subject);
    let (allowed, challenge, _) = authority
        .check_authorization(&subject, action, &details, flags, "")
        .await?;
    Ok((allowed, challenge))
}
