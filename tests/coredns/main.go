// SPDX-License-Identifier: Apache-2.0

// Command coredns is CoreDNS with the plugins that a test cluster and
// Kubernetes' DNS tests need, and no other: half the build and half the size.
// A module of its own, because its dependencies are not those of the release
// of Kubernetes beside it.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/template"
)

// The order in which a query meets the plugins; upstream's plugin.cfg.
func init() {
	dnsserver.Directives = []string{
		"reload", "health", "ready", "errors", "log", "cache", "loadbalance",
		"template", "hosts", "kubernetes", "forward",
	}
}

func main() { coremain.Run() }
