{{- define "sheave.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "sheave.labels" -}}
{{ include "sheave.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "sheave.selector" -}}
app.kubernetes.io/name: {{ include "sheave.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sheave.serviceAccount" -}}
{{- default (include "sheave.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "sheave.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- /* The keys of docs/configuration.md. */ -}}
{{- define "sheave.config" -}}
{{- $servers := .Values.k8s.apiServerURLs -}}
{{- if and (not $servers) .Values.k8sServiceHost -}}
{{- $host := .Values.k8sServiceHost -}}
{{- if and (contains ":" $host) (not (hasPrefix "[" $host)) -}}{{- $host = printf "[%s]" $host -}}{{- end -}}
{{- $servers = list (printf "https://%s:%d" $host (int .Values.k8sServicePort)) -}}
{{- end -}}
{{- $config := dict
  "pin-dir" "/sys/fs/bpf/sheave"
  "run-dir" .Values.runPath
  "pod-network" .Values.podNetwork.enabled
  "socket-lb" (ternary (ternary "host" "all" .Values.socketLB.hostNamespaceOnly) "off" .Values.socketLB.enabled)
  "node-port-addresses" .Values.nodePort.addresses
  "node-port-range" .Values.nodePort.range
  "masquerade" .Values.masquerade.enabled
  "masquerade-all" .Values.masquerade.all
  "services-max" (int .Values.bpf.lbMapMax)
  "ring-max" (int .Values.bpf.lbRingMax)
  "backends-max" (int .Values.bpf.lbBackendsMax)
  "affinity-max" (int .Values.bpf.lbAffinityMax)
  "source-ranges-max" (int .Values.bpf.lbSourceRangesMax)
  "flows-max" (int .Values.bpf.flowsMax)
  "health-address" (printf "%s:%d" .Values.health.address (int .Values.health.port))
  "metrics-address" (printf "%s:%d" (ternary .Values.prometheus.address "127.0.0.1" .Values.prometheus.enabled) (int .Values.prometheus.port))
  "log-level" .Values.log.level
  "log-format" .Values.log.format
-}}
{{- if .Values.podNetwork.enabled -}}
{{- $config = merge $config (dict
  "routing" .Values.podNetwork.routing
  "vxlan-port" (int .Values.podNetwork.vxlanPort)
  "vxlan-vni" (int .Values.podNetwork.vxlanVNI)
  "pod-mtu" .Values.podNetwork.mtu) -}}
{{- end -}}
{{- if $servers -}}{{- $_ := set $config "api-servers" $servers -}}{{- end -}}
{{- if .Values.clusterCIDR -}}{{- $_ := set $config "cluster-cidr" .Values.clusterCIDR -}}{{- end -}}
{{- if .Values.masquerade.nonMasqueradeCIDRs -}}
{{- $_ := set $config "non-masquerade-cidrs" .Values.masquerade.nonMasqueradeCIDRs -}}
{{- end -}}
{{- /* What is a number, a truth or a text here is a text there; numbers must not become 1e+06. */ -}}
{{- range $key, $value := .Values.extraConfig -}}
{{- if kindIs "slice" $value -}}{{- $_ := set $config $key $value -}}
{{- else if kindIs "float64" $value -}}{{- $_ := set $config $key (int64 $value) -}}
{{- else -}}{{- $_ := set $config $key $value -}}{{- end -}}
{{- end -}}
{{- range $key, $value := $config }}
{{ $key }}: {{ toJson $value }}
{{- end -}}
{{- end -}}
