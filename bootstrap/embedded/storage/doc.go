// Package storage is the provisioner behind the StorageClasses whose provisioner is
// ropes.dev/local: it makes a directory on a node for each claim, hands it out as a
// PersistentVolume of type local, and removes the directory when the volume is let go.
//
// One provisioner runs on each node and serves only the claims that belong there:
// those that the scheduler has sent to its node (WaitForFirstConsumer), and, for
// classes with volumeBindingMode Immediate, those that a hash of the claim's UID
// gives to its node. Since the work is divided that way, no leader is elected.
//
// Volumes are of type local rather than hostPath because a local volume carries its
// node's name: the scheduler then returns a pod to the node that holds its data,
// which is what the words ReadWriteOnce promise.
//
// What it does not do: it does not enforce the capacity of a volume (a directory has
// no size of its own; the number is recorded for binding, as for NFS), it does not
// move data between nodes, it does not grow, clone or snapshot volumes, and it makes
// no block devices. A claim that asks for any of these is refused with an event that
// names what was asked. The directory of a volume with the policy Retain stays when
// the volume object is deleted; it is the administrator's from then on.
package storage
