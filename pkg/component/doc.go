// Package component is what every Skiff binary has in common: the version it
// reports, its logger, its health and metrics endpoints, its client, and how
// it starts and stops.
//
// A binary is a cobra command whose flags fill a Config, and a Run(ctx) that
// returns when everything it started has stopped. [Main] connects the two:
//
//	func main() { component.Main(newCommand()) }
//
// Log records are log/slog's; what libraries write through klog ends up in the
// same place (see [Logging]). Health checks and metrics carry the names that
// Kubernetes' components use, so that existing probes and dashboards work.
package component
