// Package aggregate lets other servers answer for versions of API groups: those that an APIService with a
// service stands for. To clients they are all one API.
//
// [Aggregator] follows the APIServices. Requests for a version that is another server's go there
// (proxy.go) by way of the service, under the identity of the front proxy, and with who asks in headers: the other
// server believes them because of this server's client certificate. A goroutine per APIService
// looks whether it would answer (available.go decides, check.go asks) and keeps the condition Available; the same question,
// for the resources of the version, brings what discovery shows of it. What this server
// answers by itself has APIServices as well, without a service, which it makes (register.go decides,
// registrar.go does).
//
// A request for what is served here costs a look into a map that is usually empty.
package aggregate
