// Package ext is where Traefik's configuration can be extended; what stands there in its sources is not in its module.
package ext

type (
	HTTP   struct{}
	Router struct{}
)
