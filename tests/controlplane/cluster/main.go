// SPDX-License-Identifier: Apache-2.0

// Command cluster is what a cluster of nodes needs beyond the control plane:
// kubelet, kube-scheduler and kubectl, linked as ordinary dependencies, and
// what plays the cloud for load balancers (cloud.go): one program that picks
// what to be from the name it was started under.
//
// A program of its own, because `cargo xtask test apiserver` needs none of it
// and should not wait for its build. `cargo xtask cluster` builds it into
// target/kubernetes/.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "kubelet":
		os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background())))
	case "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case "kubectl":
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err)
		}
	case "cloud":
		exitWith(runCloud(os.Args[1:]))
	default:
		fmt.Fprintf(os.Stderr, "cluster: started as %q, which is none of the names it is linked to\n", name)
		os.Exit(2)
	}
}
