// SPDX-License-Identifier: Apache-2.0

// Command controlplane is the parts of Kubernetes that the test classes
// "apiserver" and "oracle" run: the real etcd, kube-apiserver,
// kube-controller-manager and kube-proxy, linked as ordinary dependencies into
// one program that picks what to be from the name it was started under. They
// share most of their code, so one program compiles, links and stores faster
// than four.
//
// `cargo xtask test apiserver` builds it once into target/controlplane/ and
// links the names to it. It owns nothing but the choice and the key that the
// components want to be given: every flag and every line of output is the
// component's own.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	case "kube-proxy":
		os.Exit(cli.Run(proxy.NewProxyCommand()))
	case "service-account-key":
		if err := printKey(); err != nil {
			fmt.Fprintln(os.Stderr, "service-account-key:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintf(os.Stderr, "controlplane: started as %q, which is none of the names it is linked to\n", name)
		os.Exit(2)
	}
}

// printKey writes a fresh private key, with which the API server signs service
// account tokens, to standard output as PEM. Made here so that the repository
// holds no key and the tests need no openssl.
func printKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return pem.Encode(os.Stdout, &pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}
