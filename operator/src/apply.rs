//! Writes to the API server: server-side apply that skips what is there already, creation of immutable children, deletion with
//! preconditions, status only when it differs.
//!
//! Everything is written under the field manager `millrace-operator`. A child is only touched when its owner is ours.

use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use millrace_contract::Digest;
use millrace_crds::labels::{APPLIED, FIELD_MANAGER};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Error,
    bug::SeededBug,
    cluster::{Cluster, Namespaced, within_deadline},
    error::Class,
    owner::{self, Owner},
    subset::contains,
};

impl Cluster {
    /// Makes the stored child what `desired` says. Reads it first and writes nothing when it is so already.
    pub async fn apply<K: Namespaced + Serialize>(&self, owner: &Owner, desired: K) -> Result<K, Error> {
        let live = self.get::<K>(&namespace_of(&desired), &desired.name_any()).await?;
        self.apply_over(owner, live.as_ref(), desired).await
    }

    /// As `apply`, for who has read the stored child (or its absence) already.
    pub async fn apply_over<K: Namespaced + Serialize>(
        &self,
        owner: &Owner,
        live: Option<&K>,
        mut desired: K,
    ) -> Result<K, Error> {
        if !self.bugs.has(SeededBug::ForgetOwner) {
            owner.mark(desired.meta_mut());
        }
        let mut body = applied_json(&desired)?;
        if let Some(live) = live {
            self.check_ours(owner, live)?;
            let stored = serde_json::to_value(live).map_err(|e| unwritable::<K>(&e))?;
            if contains(&stored, &body) && !self.bugs.has(SeededBug::AlwaysApply) {
                return Ok(live.clone());
            }
            // The uid makes sure that the object we looked at is the one we change, and not a namesake made since.
            body["metadata"]["uid"] = json!(live.uid());
        }
        self.server_side_apply(&desired, &body).await
    }

    /// As `apply`, for what many looks share and nobody but the operator changes: one that was found as desired is not read again
    /// for a while.
    pub async fn apply_now_and_then<K: Namespaced + Serialize>(
        &self,
        owner: &Owner,
        desired: K,
        now: Timestamp,
    ) -> Result<(), Error> {
        let place = describe::<K>("know", &desired);
        let digest = Digest::of(serde_json::to_vec(&desired).map_err(|e| unwritable::<K>(&e))?);
        if self.known.is_known(&place, &digest, now) {
            return Ok(());
        }
        self.apply(owner, desired).await?;
        self.known.note(place, digest, now);
        Ok(())
    }

    /// Makes the child if it is not there. One that is there stays as it is, whatever `desired` says: for children whose
    /// content can't change (a Job's template), where the name tells the content apart.
    pub async fn ensure<K: Namespaced + Serialize>(&self, owner: &Owner, desired: K) -> Result<K, Error> {
        let live = self.get::<K>(&namespace_of(&desired), &desired.name_any()).await?;
        self.ensure_over(owner, live.as_ref(), desired).await
    }

    /// As `ensure`, for who has read the stored child (or its absence) already.
    pub async fn ensure_over<K: Namespaced + Serialize>(
        &self,
        owner: &Owner,
        live: Option<&K>,
        desired: K,
    ) -> Result<K, Error> {
        match live {
            Some(live) => self.check_ours(owner, live).map(|()| live.clone()),
            None => self.apply_over(owner, None, desired).await,
        }
    }

    /// Changes some fields of a stored child of ours by a JSON merge patch, as long as it still is the version that was read.
    pub async fn patch<K: Namespaced>(&self, owner: &Owner, live: &K, mut change: Value) -> Result<K, Error> {
        self.check_ours(owner, live)?;
        change["metadata"]["uid"] = json!(live.uid());
        change["metadata"]["resourceVersion"] = json!(live.resource_version());
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace_of(live));
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let name = live.name_any();
        within_deadline(describe::<K>("patch", live), api.patch(&name, &params, &Patch::Merge(&change))).await
    }

    /// Changes an object that is no child of ours, by a JSON merge patch with its uid and resourceVersion in it: whose it is, its caller has
    /// seen. Gone already is fine.
    pub async fn change_named<K: Namespaced>(&self, namespace: &str, name: &str, change: &Value) -> Result<(), Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let doing = format!("change {} {namespace}/{name}", K::kind(&()));
        match within_deadline(doing, api.patch(name, &params, &Patch::Merge(change))).await {
            Ok(_) => Ok(()),
            Err(Error::Api { source: kube::Error::Api(status), .. }) if status.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes a child of ours, as long as it still is the version that was read. Gone already is fine.
    pub async fn delete<K: Namespaced>(&self, owner: &Owner, live: &K) -> Result<(), Error> {
        self.check_ours(owner, live)?;
        self.delete_named::<K>(live.meta()).await
    }

    /// As `delete`, for who has read only the metadata.
    pub async fn delete_by_metadata<K: Namespaced>(
        &self,
        owner: &Owner,
        live: &kube::api::PartialObjectMeta<K>,
    ) -> Result<(), Error> {
        check_ours_metadata::<K>(owner, &live.metadata, self.bugs.has(SeededBug::AdoptForeignChild))?;
        self.delete_named::<K>(&live.metadata).await
    }

    async fn delete_named<K: Namespaced>(
        &self,
        live: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    ) -> Result<(), Error> {
        let (namespace, name) = (live.namespace.clone().unwrap_or_default(), live.name.clone().unwrap_or_default());
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        let mut params = DeleteParams::background();
        if !self.bugs.has(SeededBug::ForgetDeletePrecondition) {
            params = params.preconditions(Preconditions {
                uid: live.uid.clone(),
                resource_version: live.resource_version.clone(),
            });
        }
        match within_deadline(format!("delete {} {namespace}/{name}", K::kind(&())), api.delete(&name, &params)).await {
            Ok(_) => Ok(()),
            Err(Error::Api { source: kube::Error::Api(status), .. }) if status.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes the status if it differs from `former`, the one in `object`. A status computed from an outdated object is
    /// refused by the API server as a conflict. Returns whether it wrote.
    pub async fn write_status<K, S>(&self, object: &K, former: Option<&S>, status: &S) -> Result<bool, Error>
    where
        K: Namespaced,
        S: Serialize,
    {
        let wanted = serde_json::to_value(status).map_err(|e| unwritable::<K>(&e))?;
        let stored = former.map(serde_json::to_value).transpose().map_err(|e| unwritable::<K>(&e))?;
        if stored.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        let mut body = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": object.name_any(), "uid": object.uid()},
            "status": wanted,
        });
        if !self.bugs.has(SeededBug::ForgetStatusPrecondition) {
            body["metadata"]["resourceVersion"] = json!(object.resource_version());
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace_of(object));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let name = object.name_any();
        within_deadline(
            describe::<K>("write status of", object),
            api.patch_status(&name, &params, &Patch::Apply(&body)),
        )
        .await?;
        Ok(true)
    }

    /// Shows in a condition what keeps a child of this object from being written, where a watch or a user must resolve it: `refused` makes the
    /// status that says so. Faults that pass are only retried. Returns how the look ends.
    pub async fn report_refusal<K, S>(
        &self,
        object: &K,
        former: Option<&S>,
        error: Error,
        refused: impl FnOnce(&Error) -> S,
    ) -> Error
    where
        K: Namespaced,
        S: Serialize,
    {
        match error.class() {
            Class::Conflict | Class::Transient => error,
            Class::Invalid | Class::Blocked => {
                let status = refused(&error);
                match self.write_status(object, former, &status).await {
                    Ok(_) => error,
                    Err(second) => second,
                }
            }
        }
    }

    async fn server_side_apply<K: Namespaced>(&self, desired: &K, body: &Value) -> Result<K, Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace_of(desired));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let name = desired.name_any();
        within_deadline(describe::<K>("apply", desired), api.patch(&name, &params, &Patch::Apply(body))).await
    }

    fn check_ours<K: Namespaced>(&self, owner: &Owner, live: &K) -> Result<(), Error> {
        check_ours_metadata::<K>(owner, live.meta(), self.bugs.has(SeededBug::AdoptForeignChild))
    }
}

fn check_ours_metadata<K: Namespaced>(
    owner: &Owner,
    live: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    adopts: bool,
) -> Result<(), Error> {
    if adopts || owner.owns(live) {
        return Ok(());
    }
    Err(Error::NotOurs {
        kind: K::kind(&()).into_owned(),
        namespace: live.namespace.clone().unwrap_or_default(),
        name: live.name.clone().unwrap_or_default(),
        owner: owner::described(live),
    })
}

/// The JSON that is applied: what `desired` says, with a digest of it as an annotation. The digest is what shows that a field
/// was taken out of `desired`: the stored object would still contain all the rest.
fn applied_json<K: Namespaced + Serialize>(desired: &K) -> Result<Value, Error> {
    let mut body = serde_json::to_value(desired).map_err(|e| unwritable::<K>(&e))?;
    body["apiVersion"] = json!(K::api_version(&()));
    body["kind"] = json!(K::kind(&()));
    if let Some(fields) = body.as_object_mut() {
        fields.remove("status");
    }
    let digest = Digest::of(body.to_string());
    body["metadata"]["annotations"][APPLIED] = json!(digest.as_str());
    Ok(body)
}

fn namespace_of<K: Resource>(object: &K) -> String {
    object.meta().namespace.clone().unwrap_or_default()
}

fn describe<K: Namespaced>(verb: &str, object: &K) -> String {
    format!("{verb} {} {}/{}", K::kind(&()), namespace_of(object), object.name_any())
}

fn unwritable<K: Namespaced>(error: &serde_json::Error) -> Error {
    Error::Internal(format!("{} can't be written as JSON: {error}", K::kind(&())))
}
