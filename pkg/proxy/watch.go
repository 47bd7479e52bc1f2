package proxy

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// watch subscribes to the informers. Handlers only note what came; however
// much comes while the loop is at work is one piece of work afterwards.
func (p *Proxy) watch() (synced []cache.InformerSynced, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, one := range stops {
			one()
		}
	}
	if p.config.Services == nil || p.config.EndpointSlices == nil || p.config.Programmer == nil {
		return nil, stop, errors.New("proxy: Services, EndpointSlices and Programmer must be set")
	}
	subscribe := func(informer cache.SharedIndexInformer, handle func(object any, gone bool)) {
		if informer == nil || err != nil {
			return
		}
		var registration cache.ResourceEventHandlerRegistration
		registration, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { handle(object, false) },
			UpdateFunc: func(_, object any) { handle(object, false) },
			DeleteFunc: func(object any) {
				if last, unknown := object.(cache.DeletedFinalStateUnknown); unknown {
					object = last.Obj
				}
				handle(object, true)
			},
		})
		if err != nil {
			err = fmt.Errorf("proxy: watching: %w", err)
			return
		}
		synced = append(synced, registration.HasSynced)
		stops = append(stops, func() { informer.RemoveEventHandler(registration) })
	}
	subscribe(p.config.Services, p.onService)
	subscribe(p.config.EndpointSlices, p.onSlice)
	subscribe(p.config.Nodes, p.onNode)
	return synced, stop, err
}

func (p *Proxy) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Proxy) onService(object any, gone bool) {
	service, ok := object.(*corev1.Service)
	if !ok {
		return
	}
	name := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
	if gone {
		service = nil
	}
	p.mu.Lock()
	p.pending.services[name] = service
	p.mu.Unlock()
	p.poke()
}

func (p *Proxy) onSlice(object any, gone bool) {
	slice, ok := object.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	name := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Name}
	if _, others := slice.Labels[serviceProxyName]; gone || others || serviceOf(slice).Name == "" {
		slice = nil
	}
	p.mu.Lock()
	p.pending.slices[name] = slice
	p.mu.Unlock()
	p.poke()
}

func (p *Proxy) onNode(object any, gone bool) {
	node, ok := object.(*corev1.Node)
	if !ok || node.Name != p.config.NodeName || gone {
		return
	}
	p.mu.Lock()
	p.pending.zone = true
	p.mu.Unlock()
	p.poke()
}

// zone reads this node's zone from the cache.
func (p *Proxy) zone() string {
	object, found, err := p.config.Nodes.GetStore().GetByKey(p.config.NodeName)
	if err != nil || !found {
		return p.node.Zone
	}
	return object.(*corev1.Node).Labels[corev1.LabelTopologyZone]
}
