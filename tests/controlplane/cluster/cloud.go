// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/controllers/service"
	metrics "k8s.io/component-base/metrics/prometheus/controllers"
	"k8s.io/klog/v2"
)

// How often a real load balancer asks is a matter of seconds; tests wait for it.
const checkPeriod = time.Second

// cloud gives Services of type LoadBalancer addresses from ranges, and routes
// them to nodes on the machine it runs on, which stands for the world outside.
// When it does so is decided by Kubernetes' own service controller.
type cloud struct {
	// The service controller asks for load balancers and for nothing else.
	cloudprovider.Interface
	ranges  []netip.Prefix
	clients []netip.Addr
	prober  http.Client

	mutex     sync.Mutex
	balancers map[types.UID]*balancer
}

// balancer is the load balancer of one Service.
type balancer struct {
	service *v1.Service
	nodes   []*v1.Node
	// By address, what `ip` was told last.
	routes map[netip.Addr]string
	// Nodes that answered the last health check, by name.
	healthy map[string]bool
}

// runCloud goes on until it is killed: its routes go with the machine.
func runCloud(arguments []string) error {
	flags := flag.NewFlagSet("cloud", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "how to get to the API server")
	ranges := flags.String("ranges", "", "what load balancers get addresses from, with commas between")
	clients := flags.String("clients", "", "an address of this machine in each family, to speak from to load balancers")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	it := &cloud{balancers: map[types.UID]*balancer{}, prober: http.Client{Timeout: checkPeriod}}
	// A kept connection would go on answering after the port is closed.
	it.prober.Transport = &http.Transport{DisableKeepAlives: true}
	for _, text := range strings.Split(*ranges, ",") {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		it.ranges = append(it.ranges, prefix.Masked())
	}
	for _, text := range strings.Split(*clients, ",") {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		it.clients = append(it.clients, address)
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx := context.Background()
	factory := informers.NewSharedInformerFactory(client, 0)
	controller, err := service.New(it, client, factory.Core().V1().Services(), factory.Core().V1().Nodes(), "sheave", nil)
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	go it.checkForEver()
	controller.Run(ctx, 4, metrics.NewControllerManagerMetrics("cloud"))
	return nil
}

func (c *cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return c, true }

func (c *cloud) ProviderName() string { return "sheave-tests" }

func (c *cloud) GetLoadBalancerName(_ context.Context, _ string, service *v1.Service) string {
	return string(service.UID)
}

func (c *cloud) GetLoadBalancer(_ context.Context, _ string, service *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	found, exists := c.balancers[service.UID]
	if !exists {
		return nil, false, nil
	}
	return found.status(), true, nil
}

func (c *cloud) EnsureLoadBalancer(_ context.Context, _ string, service *v1.Service, nodes []*v1.Node) (*v1.LoadBalancerStatus, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	it, exists := c.balancers[service.UID]
	if !exists {
		it = &balancer{routes: map[netip.Addr]string{}, healthy: map[string]bool{}}
		c.balancers[service.UID] = it
	}
	it.service, it.nodes = service, nodes
	for address := range it.routes {
		if !slices.Contains(service.Spec.IPFamilies, family(address)) {
			if err := it.release(address); err != nil {
				return nil, err
			}
		}
	}
	for _, wanted := range service.Spec.IPFamilies {
		if err := c.allocate(it, wanted); err != nil {
			return nil, err
		}
	}
	return it.status(), c.route(it)
}

func (c *cloud) UpdateLoadBalancer(ctx context.Context, name string, service *v1.Service, nodes []*v1.Node) error {
	_, err := c.EnsureLoadBalancer(ctx, name, service, nodes)
	return err
}

func (c *cloud) EnsureLoadBalancerDeleted(_ context.Context, _ string, service *v1.Service) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	it, exists := c.balancers[service.UID]
	if !exists {
		return nil
	}
	for address := range it.routes {
		if err := it.release(address); err != nil {
			return err
		}
	}
	delete(c.balancers, service.UID)
	return nil
}

// allocate gives a balancer an address of a family, unless it has one: that in
// spec.loadBalancerIP, else the first free one.
func (c *cloud) allocate(it *balancer, wanted v1.IPFamily) error {
	for address := range it.routes {
		if family(address) == wanted {
			return nil
		}
	}
	if asked, err := netip.ParseAddr(it.service.Spec.LoadBalancerIP); err == nil && family(asked) == wanted {
		inRange := func(prefix netip.Prefix) bool { return prefix.Contains(asked) }
		if !slices.ContainsFunc(c.ranges, inRange) || c.isTaken(asked) {
			return fmt.Errorf("%s/%s cannot have %s: taken, or in none of %v", it.service.Namespace, it.service.Name, asked, c.ranges)
		}
		it.routes[asked] = ""
		return nil
	}
	for _, prefix := range c.ranges {
		if family(prefix.Addr()) != wanted {
			continue
		}
		for address := prefix.Addr().Next(); prefix.Contains(address); address = address.Next() {
			if !c.isTaken(address) {
				it.routes[address] = ""
				return nil
			}
		}
	}
	return fmt.Errorf("%s/%s: no %s address is left in %v", it.service.Namespace, it.service.Name, wanted, c.ranges)
}

func (c *cloud) isTaken(address netip.Addr) bool {
	for _, it := range c.balancers {
		if _, has := it.routes[address]; has {
			return true
		}
	}
	return false
}

// route makes the routes of a balancer what they should be.
func (c *cloud) route(it *balancer) error {
	for address, now := range it.routes {
		wanted := c.wantedRoute(it, address)
		if wanted == now {
			continue
		}
		if wanted == "" {
			if err := ip("route del " + address.String()); err != nil {
				return err
			}
		} else if err := ip("route replace " + wanted); err != nil {
			return err
		}
		klog.Infof("%s/%s: %s, was %q", it.service.Namespace, it.service.Name, wanted, now)
		it.routes[address] = wanted
	}
	return nil
}

// wantedRoute is empty where no node may get anything: the route of the whole
// range refuses then. A connection goes to a node by hash of its ports; but
// with session affinity all of one client's to the same, and there is only one.
func (c *cloud) wantedRoute(it *balancer, address netip.Addr) string {
	var hops []string
	for _, node := range it.nodes {
		gateway := nodeAddress(node, family(address))
		if gateway != "" && (!it.isLocal() || it.healthy[node.Name]) {
			hops = append(hops, " nexthop via "+gateway)
		}
	}
	if len(hops) == 0 {
		return ""
	}
	slices.Sort(hops)
	if it.service.Spec.SessionAffinity == v1.ServiceAffinityClientIP {
		hops = hops[:1]
	}
	sameFamily := func(client netip.Addr) bool { return client.Is4() == address.Is4() }
	from := c.clients[slices.IndexFunc(c.clients, sameFamily)]
	return fmt.Sprintf("%s src %s%s", address, from, strings.Join(hops, ""))
}

func (c *cloud) checkForEver() {
	for ; ; time.Sleep(checkPeriod) {
		for uid, targets := range c.targets() {
			healthy := c.probe(targets)
			c.mutex.Lock()
			if it, exists := c.balancers[uid]; exists {
				it.healthy = healthy
				if err := c.route(it); err != nil {
					klog.Errorf("%s/%s: %v", it.service.Namespace, it.service.Name, err)
				}
			}
			c.mutex.Unlock()
		}
	}
}

// targets are, by Service with externalTrafficPolicy Local and node, where to
// ask for health.
func (c *cloud) targets() map[types.UID]map[string]string {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	all := map[types.UID]map[string]string{}
	for uid, it := range c.balancers {
		if !it.isLocal() {
			continue
		}
		all[uid] = map[string]string{}
		for _, node := range it.nodes {
			address, err := netip.ParseAddr(nodeAddress(node, it.service.Spec.IPFamilies[0]))
			if err != nil {
				continue
			}
			port := netip.AddrPortFrom(address, uint16(it.service.Spec.HealthCheckNodePort))
			all[uid][node.Name] = fmt.Sprintf("http://%s/healthz", port)
		}
	}
	return all
}

func (c *cloud) probe(targets map[string]string) map[string]bool {
	healthy := map[string]bool{}
	for node, url := range targets {
		answer, err := c.prober.Get(url)
		if err != nil {
			continue
		}
		answer.Body.Close()
		healthy[node] = answer.StatusCode == http.StatusOK
	}
	return healthy
}

func (b *balancer) isLocal() bool {
	return b.service.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal
}

// release takes an address from a balancer, and its route away.
func (b *balancer) release(address netip.Addr) error {
	if b.routes[address] != "" {
		if err := ip("route del " + address.String()); err != nil {
			return err
		}
	}
	delete(b.routes, address)
	return nil
}

// status lists the addresses in the order of the Service's families.
func (b *balancer) status() *v1.LoadBalancerStatus {
	status := &v1.LoadBalancerStatus{}
	for _, wanted := range b.service.Spec.IPFamilies {
		for address := range b.routes {
			if family(address) == wanted {
				status.Ingress = append(status.Ingress, v1.LoadBalancerIngress{IP: address.String()})
			}
		}
	}
	return status
}

func family(address netip.Addr) v1.IPFamily {
	if address.Is4() {
		return v1.IPv4Protocol
	}
	return v1.IPv6Protocol
}

// nodeAddress is empty for a node without one of that family.
func nodeAddress(node *v1.Node, wanted v1.IPFamily) string {
	for _, entry := range node.Status.Addresses {
		address, err := netip.ParseAddr(entry.Address)
		if err == nil && entry.Type == v1.NodeInternalIP && family(address) == wanted {
			return entry.Address
		}
	}
	return ""
}

func ip(words string) error {
	output, err := exec.Command("ip", strings.Fields(words)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", words, err, output)
	}
	return nil
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
