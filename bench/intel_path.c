/* For measuring a peer, on AMD processors: MKL asks this function of its own whether it may take its AVX-512 path. Preloaded, this one
   says yes. It is not documented and no product should depend on it; `align` never sees it. gcc -O2 -shared -fPIC -o libintel_path.so intel_path.c */
int mkl_serv_intel_cpu_true(void)
{
    return 1;
}
