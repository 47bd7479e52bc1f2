// Package patch computes what a patch makes of an object, and keeps track of
// which client owns which field.
//
// [Apply] does the three patches that change an object as it stands: JSON patch
// (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge
// patch. [Managers] hold one [Manager] per kind and subresource; it does server-side
// apply, and maintains metadata.managedFields on every other write (KEP-555).
//
// The formats themselves are libraries: evanphx/json-patch, apimachinery's
// strategicpatch and managedfields.
package patch
