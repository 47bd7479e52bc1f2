package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/client-go/metadata"

	"skiff/pkg/controller/bootstrapsigner"
	"skiff/pkg/controller/certificates"
	"skiff/pkg/controller/clusterrole"
	"skiff/pkg/controller/deployment"
	"skiff/pkg/controller/disruption"
	"skiff/pkg/controller/endpoints"
	"skiff/pkg/controller/endpointslice"
	"skiff/pkg/controller/endpointslicemirroring"
	"skiff/pkg/controller/garbagecollector"
	"skiff/pkg/controller/namespace"
	"skiff/pkg/controller/nodeipam"
	"skiff/pkg/controller/nodelifecycle"
	"skiff/pkg/controller/nodettl"
	"skiff/pkg/controller/podgc"
	"skiff/pkg/controller/reconciler"
	"skiff/pkg/controller/replicaset"
	"skiff/pkg/controller/resourcequota"
	"skiff/pkg/controller/rootca"
	"skiff/pkg/controller/serviceaccount"
	"skiff/pkg/controller/tainteviction"
	"skiff/pkg/controller/tokencleaner"
	"skiff/pkg/pki/bootstrap"
)

// row describes one reconciler.
type row struct {
	name    string // Kubernetes' name, for --controllers
	alias   string // its name before 1.28, still understood
	account string // the service account it acts as
	source  string // the component that its events name
	// make builds the reconciler and returns its Run; nil without the configuration it needs.
	make func(parts) (func(context.Context) error, error)
}

// parts are what a reconciler can be made of.
type parts struct {
	reconciler.Config
	metadata metadata.Interface
	of       Config
}

type runner interface{ Run(context.Context) error }

// plain is a reconciler that needs no more than every one does.
func plain[R runner](make func(reconciler.Config) R) func(parts) (func(context.Context) error, error) {
	return func(p parts) (func(context.Context) error, error) { return make(p.Config).Run, nil }
}

// catalogue lists the reconcilers.
var catalogue = []row{
	{"deployment-controller", "deployment", "deployment-controller", "deployment-controller", plain(deployment.New)},
	{"replicaset-controller", "replicaset", "replicaset-controller", "replicaset-controller", plain(replicaset.New)},
	{"replicationcontroller-controller", "replicationcontroller", "replication-controller", "replication-controller", plain(replicaset.NewReplication)},
	{"endpoints-controller", "endpoint", "endpoint-controller", "endpoint-controller", plain(endpoints.New)},
	{"endpointslice-controller", "endpointslice", "endpointslice-controller", "endpoint-slice-controller", makeEndpointSlice},
	{"endpointslice-mirroring-controller", "endpointslicemirroring", "endpointslicemirroring-controller", "endpoint-slice-mirroring-controller", makeMirroring},
	{"namespace-controller", "namespace", "namespace-controller", "namespace-controller", makeNamespace},
	{"serviceaccount-controller", "serviceaccount", "service-account-controller", "service-account-controller", plain(serviceaccount.New)},
	{"garbage-collector-controller", "garbagecollector", "generic-garbage-collector", "garbage-collector-controller", makeGarbageCollector},
	{"resourcequota-controller", "resourcequota", "resourcequota-controller", "resourcequota-controller", makeResourceQuota},
	{"disruption-controller", "disruption", "disruption-controller", "controllermanager", plain(disruption.New)},
	{"root-ca-certificate-publisher-controller", "root-ca-cert-publisher", "root-ca-cert-publisher", "root-ca-cert-publisher", makeRootCA},
	{"pod-garbage-collector-controller", "podgc", "pod-garbage-collector", "pod-garbage-collector-controller", makePodGC},
	{"node-lifecycle-controller", "nodelifecycle", "node-controller", "node-controller", makeNodeLifecycle},
	{"taint-eviction-controller", "", "node-controller", "taint-eviction-controller", plain(tainteviction.New)},
	{"ttl-controller", "ttl", "ttl-controller", "ttl-controller", plain(nodettl.New)},
	{"clusterrole-aggregation-controller", "clusterrole-aggregation", "clusterrole-aggregation-controller", "clusterrole-aggregation-controller", plain(clusterrole.New)},
	{"certificatesigningrequest-approving-controller", "csrapproving", "certificate-controller", "certificate-controller", plain(certificates.NewApprover)},
	{"certificatesigningrequest-signing-controller", "csrsigning", "certificate-controller", "certificate-controller", makeSigner},
	{"certificatesigningrequest-cleaner-controller", "csrcleaner", "certificate-controller", "certificate-controller", plain(certificates.NewCleaner)},
	{"skiff-kubelet-serving-approver", "", bootstrap.Approver, "certificate-controller", plain(certificates.NewServingApprover)},
	{"bootstrap-signer-controller", "bootstrapsigner", "bootstrap-signer", "bootstrap-signer", plain(bootstrapsigner.New)},
	{"token-cleaner-controller", "tokencleaner", "token-cleaner", "token-cleaner", plain(tokencleaner.New)},
	{"node-ipam-controller", "nodeipam", "node-controller", "cidrAllocator", makeNodeIPAM},
}

func makeEndpointSlice(p parts) (func(context.Context) error, error) {
	return endpointslice.New(p.Config, p.of.MaxEndpointsPerSlice).Run, nil
}

func makeMirroring(p parts) (func(context.Context) error, error) {
	return endpointslicemirroring.New(p.Config, p.of.MirroringMaxEndpointsPerSubset).Run, nil
}

func makeNamespace(p parts) (func(context.Context) error, error) {
	return namespace.New(p.Config, p.metadata).Run, nil
}

func makeGarbageCollector(p parts) (func(context.Context) error, error) {
	return garbagecollector.New(p.Config, p.metadata).Run, nil
}

func makeResourceQuota(p parts) (func(context.Context) error, error) {
	return resourcequota.New(p.Config, p.metadata).Run, nil
}

func makeRootCA(p parts) (func(context.Context) error, error) {
	if len(p.of.RootCA) == 0 {
		return nil, nil
	}
	return rootca.New(p.Config, p.of.RootCA).Run, nil
}

func makePodGC(p parts) (func(context.Context) error, error) {
	return podgc.New(p.Config, p.of.TerminatedPodThreshold).Run, nil
}

func makeNodeLifecycle(p parts) (func(context.Context) error, error) {
	return nodelifecycle.New(p.Config, p.of.NodeLifecycle).Run, nil
}

func makeSigner(p parts) (func(context.Context) error, error) {
	if len(p.of.Signers) == 0 {
		return nil, nil
	}
	return certificates.NewSigner(p.Config, p.of.Signers, p.of.SigningDuration).Run, nil
}

func makeNodeIPAM(p parts) (func(context.Context) error, error) {
	if !p.of.AllocateNodeCIDRs {
		return nil, nil
	}
	ranges, err := nodeipam.Ranges(p.of.ClusterCIDRs, p.of.NodeMaskIPv4, p.of.NodeMaskIPv6)
	if err != nil {
		return nil, err
	}
	return nodeipam.New(p.Config, ranges, p.of.ServiceCIDRs).Run, nil
}

// Names returns the names of all reconcilers.
func Names() []string {
	var names []string
	for _, row := range catalogue {
		names = append(names, row.name)
	}
	slices.Sort(names)
	return names
}

// selected picks rows by --controllers. The first mention of a name decides, "*" stands for the rest.
func selected(selectors []string) ([]row, error) {
	choice := map[string]bool{}
	rest := false
	for _, selector := range selectors {
		name, off := strings.CutPrefix(selector, "-")
		if selector == "*" {
			rest = true
			continue
		}
		i := slices.IndexFunc(catalogue, func(r row) bool { return r.name == name || (r.alias != "" && r.alias == name) })
		if i < 0 {
			return nil, fmt.Errorf("%q is not in the list of known controllers (%s)", name, strings.Join(Names(), ", "))
		}
		if _, decided := choice[catalogue[i].name]; !decided {
			choice[catalogue[i].name] = !off
		}
	}
	var rows []row
	for _, row := range catalogue {
		if on, decided := choice[row.name]; on || (!decided && rest) {
			rows = append(rows, row)
		}
	}
	return rows, nil
}
