// Python bindings of the CPU kernels.
#include <torch/csrc/utils/pybind.h>

#include "kernels.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  const auto free = pybind11::call_guard<pybind11::gil_scoped_release>();
  m.def("upfirdn2d", &ops::upfirdn2d, free);
  m.def("bias_act", &ops::bias_act, free);
  m.def("bias_act_grad", &ops::bias_act_grad, free);
  m.def("bias_act_grad2", &ops::bias_act_grad2, free);
  m.def("filtered_lrelu", &ops::filtered_lrelu, free);
  m.def("filtered_mask", &ops::filtered_mask, free);
}
