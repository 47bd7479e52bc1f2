// Package request holds what is known about one API request and travels with
// it through authentication, authorization, admission and the handlers: who
// asks ([User]), what for ([Info]), and, for a write, the objects themselves
// ([Attributes]). It is a leaf: everything of the apiserver may import it.
package request
