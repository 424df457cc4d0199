// Command network-policies enforces Kubernetes NetworkPolicies on the one node of the local cluster, by nftables in its
// network namespace. Traffic that the node itself sends, such as probes, is never filtered. A policy or pod takes effect within
// about 100 ms; connections that stand already stay.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// settle is how long changes are gathered: a rollout changes many pods at once.
const settle = 50 * time.Millisecond

func main() {
	kubeconfig := flag.String("kubeconfig", "", "path of the kubeconfig")
	address := flag.String("health", "127.0.0.1:10246", "address that serves /healthz, which succeeds while the rules are in force")
	flag.Parse()
	var health health
	go func() { log.Fatal(http.ListenAndServe(*address, &health)) }()
	if err := run(*kubeconfig, &health); err != nil {
		log.Fatal(err)
	}
}

// health answers whether what the API server last said is in force.
type health struct{ inForce atomic.Bool }

func (h *health) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	switch {
	case request.URL.Path != "/healthz":
		http.NotFound(response, request)
	case !h.inForce.Load():
		http.Error(response, "the rules are not in force", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(response, "ok")
	}
}

func run(kubeconfig string, health *health) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	factory := informers.NewSharedInformerFactory(client, 0)
	changed := make(chan struct{}, 1)
	for _, informer := range []cache.SharedIndexInformer{
		factory.Core().V1().Pods().Informer(),
		factory.Core().V1().Namespaces().Informer(),
		factory.Networking().V1().NetworkPolicies().Informer(),
	} {
		if _, err := informer.AddEventHandler(notify(changed)); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	enforce(ctx, factory, changed, health)
	return nil
}

func notify(changed chan<- struct{}) cache.ResourceEventHandler {
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { poke() },
		UpdateFunc: func(any, any) { poke() },
		DeleteFunc: func(any) { poke() },
	}
}

// enforce writes the rules whenever they differ from those last written; a failure is tried again every second.
func enforce(ctx context.Context, factory informers.SharedInformerFactory, changed <-chan struct{}, health *health) {
	written := ""
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	for {
		rules, err := current(factory)
		if err != nil {
			log.Printf("the rules stay as they were: %v", err)
		} else if rules != written {
			if err = write(ctx, rules); err != nil {
				log.Printf("writing the rules: %v", err)
			} else {
				written = rules
			}
		}
		health.inForce.Store(err == nil)
		select {
		case <-ctx.Done():
			return
		case <-changed:
			time.Sleep(settle)
		case <-retry.C:
		}
	}
}

func current(factory informers.SharedInformerFactory) (string, error) {
	w := world{namespaces: map[string]labels.Set{}}
	pods, err := factory.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil {
		return "", err
	}
	for _, pod := range pods {
		if hasAddress(pod) {
			w.pods = append(w.pods, pod)
		}
	}
	namespaces, err := factory.Core().V1().Namespaces().Lister().List(labels.Everything())
	if err != nil {
		return "", err
	}
	for _, namespace := range namespaces {
		w.namespaces[namespace.Name] = namespace.Labels
	}
	if w.policies, err = factory.Networking().V1().NetworkPolicies().Lister().List(labels.Everything()); err != nil {
		return "", err
	}
	w.sort()
	return ruleset(w)
}

func write(ctx context.Context, rules string) error {
	command := exec.CommandContext(ctx, "nft", "-f", "-")
	command.Stdin = strings.NewReader(rules)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, output)
	}
	return nil
}
