/* The C entry points that NVIDIA's Python bindings link to, without TensorRT behind them. Each factory returns NULL
 * until a hook is set; library.py sets two. Built once per library by releases.py, with -DSTUB_... and -DTRT_VERSION. */
#include <stddef.h>

#define EXPORT __attribute__((visibility("default")))
#define FACTORY(name)                                                                                   \
    static void *(*hook_of_##name)(void *, void *, long);                                               \
    EXPORT void hook_##name(void *hook) { hook_of_##name = (void *(*)(void *, void *, long))hook; }     \
    EXPORT void *name(void *a, void *b, long c) { return hook_of_##name ? hook_of_##name(a, b, c) : NULL; }

#ifdef STUB_NVINFER
FACTORY(createInferBuilder_INTERNAL)  /* ILogger *, int version */
FACTORY(createInferRuntime_INTERNAL)  /* ILogger *, int version */
FACTORY(createInferRefitter_INTERNAL)
FACTORY(getPluginRegistry)
FACTORY(getBuilderPluginRegistry)
FACTORY(getLogger)
EXPORT int getInferLibVersion(void) { return TRT_VERSION; }
#endif

#ifdef STUB_NVINFER_PLUGIN
static int (*hook_of_init)(void *, const char *);
EXPORT void hook_initLibNvInferPlugins(void *hook) { hook_of_init = (int (*)(void *, const char *))hook; }
EXPORT int initLibNvInferPlugins(void *logger, const char *name_space) {
    return hook_of_init ? hook_of_init(logger, name_space) : 1;
}
#endif

#ifdef STUB_NVONNXPARSER
FACTORY(createNvOnnxParser_INTERNAL)  /* INetworkDefinition *, ILogger *, int version */
FACTORY(createNvOnnxParserRefitter_INTERNAL)
EXPORT int getNvOnnxParserVersion(void) { return TRT_VERSION; }
#endif

#ifdef STUB_NVPARSERS  /* the bindings of TensorRT 8 also want the parsers of UFF and Caffe */
FACTORY(_ZN11nvuffparser15createUffParserEv)
FACTORY(_ZN14nvcaffeparser117createCaffeParserEv)
EXPORT void _ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi(void) {}
EXPORT void _ZN14nvcaffeparser123shutdownProtobufLibraryEv(void) {}
#endif
