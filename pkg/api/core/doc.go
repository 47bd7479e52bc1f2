// Package core holds the catalogue's rows of the core group (v1: pods, services, nodes …), and
// what other groups need of it: the defaults of pod templates.
package core
