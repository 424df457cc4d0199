//! Owner references, and whose an object is. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use millrace_crds::labels::{MANAGED_BY, MANAGED_BY_VALUE};

use crate::Error;

/// The right by which the operator writes an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Owner {
    /// The object is a child of this one, its controller.
    Controller(OwnerReference),
    /// The object has no single parent (a namespace's router, a registered model); our label marks it.
    Label,
}

impl Owner {
    /// The owner of children of this object.
    pub fn of<K: Resource<DynamicType = ()>>(parent: &K) -> Result<Self, Error> {
        let reference = parent
            .controller_owner_ref(&())
            .filter(|reference| !reference.uid.is_empty())
            .ok_or_else(|| Error::Internal(format!("{} {} has no uid", K::kind(&()), parent.name_any())))?;
        Ok(Self::Controller(reference))
    }

    /// Writes the ownership into a child's metadata.
    pub fn mark(&self, child: &mut ObjectMeta) {
        let labels = child.labels.get_or_insert_default();
        labels.insert(MANAGED_BY.to_owned(), MANAGED_BY_VALUE.to_owned());
        if let Self::Controller(reference) = self {
            child.owner_references = Some(vec![reference.clone()]);
        }
    }

    /// Whether a stored object is ours by this right.
    pub fn owns(&self, object: &ObjectMeta) -> bool {
        match self {
            Self::Controller(ours) => controller_of(object).is_some_and(|theirs| theirs.uid == ours.uid),
            Self::Label => {
                controller_of(object).is_none()
                    && object
                        .labels
                        .as_ref()
                        .and_then(|labels| labels.get(MANAGED_BY))
                        .is_some_and(|v| v == MANAGED_BY_VALUE)
            }
        }
    }
}

/// One of several owners of an object, and not its controller: the garbage collector deletes it once none of them is left.
pub fn one_of_several<K: Resource<DynamicType = ()>>(name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: None,
        block_owner_deletion: None,
    }
}

/// The controller of a stored object.
pub fn controller_of(object: &ObjectMeta) -> Option<&OwnerReference> {
    object.owner_references.iter().flatten().find(|reference| reference.controller == Some(true))
}

/// Who controls it, for messages.
pub fn described(object: &ObjectMeta) -> String {
    controller_of(object).map_or_else(|| "nobody".to_owned(), |owner| format!("{} {}", owner.kind, owner.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: "millrace.dev/v1alpha1".to_owned(),
            kind: "Dataset".to_owned(),
            name: "d".to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    #[test]
    fn a_child_is_ours_by_the_uid_of_its_controller_and_not_by_its_name() {
        let mut child = ObjectMeta::default();
        Owner::Controller(reference("1")).mark(&mut child);
        assert!(Owner::Controller(reference("1")).owns(&child));
        assert!(!Owner::Controller(reference("2")).owns(&child), "a namesake made later is another object");
        assert!(!Owner::Label.owns(&child));
        assert_eq!(described(&child), "Dataset d");
    }

    #[test]
    fn one_of_several_owners_makes_no_object_ours() {
        let one = one_of_several::<millrace_crds::Dataset>("d", "1");
        assert_eq!(one, OwnerReference { controller: None, block_owner_deletion: None, ..reference("1") });
        let shared = ObjectMeta { owner_references: Some(vec![one]), ..ObjectMeta::default() };
        assert!(!Owner::Controller(reference("1")).owns(&shared));
    }

    #[test]
    fn an_object_without_parent_is_ours_by_our_label() {
        let mut shared = ObjectMeta::default();
        assert!(!Owner::Label.owns(&shared));
        Owner::Label.mark(&mut shared);
        assert!(Owner::Label.owns(&shared));
        assert!(!Owner::Controller(reference("1")).owns(&shared));
    }
}
