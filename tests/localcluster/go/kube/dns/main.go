// CoreDNS with the five plugins that a cluster of one node uses. The full one takes three times as long to compile.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() {
	// the order in which a query passes the plugins
	dnsserver.Directives = []string{"bind", "ready", "errors", "kubernetes", "forward"}
	coremain.Run()
}
